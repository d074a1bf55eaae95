"""Labelled nuclei to learn from: those of a table, or those that ship with the package, a file for each encoder."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import spatialdata as sd

from lemon_sc._core import keys
from lemon_sc._core.errors import bad_value, listing, missing_key, one_of
from lemon_sc._core.table import as_table
from lemon_sc.io.durable import write_whole
from lemon_sc.tl._expression import embedded_rows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

FOLDER = Path(__file__).with_name("label_references")
_STAIN = ", stain "
"""Where the words of an embedding begin to name its stain."""
_NO_COLUMN = ("_index", ".", "..")
"""Names of columns that neither HDF5 nor Zarr files hold."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelReference:
    """Labelled cells."""

    name: str
    encoder: str
    """In words, what made the embedding, as ``obs[use_rep + "_encoder"]`` says it; empty where nobody says."""
    x: NDArray[np.float32]
    """(R, D), finite."""
    labels: NDArray[np.str_]
    """(R,)."""
    slides: NDArray[np.str_] | None
    """(R,)."""
    facts: dict[str, str] = field(default_factory=dict)
    """Licence, source and the like, for the record."""
    n_left_out: int = 0
    """Cells of the table without an embedding, label or slide."""

    @property
    def sha256(self) -> str:
        """Digest of embedding, labels and slides."""
        made = hashlib.sha256(np.ascontiguousarray(self.x, dtype=np.float32).tobytes())
        for texts in (self.labels, self.slides):
            made.update(json.dumps(None if texts is None else texts.tolist()).encode())
        return made.hexdigest()


def table_of(reference: object, *, table_key: str) -> AnnData:
    """The table of a reference that does not ship."""
    if not isinstance(reference, ad.AnnData | sd.SpatialData):
        must = "be an AnnData or a SpatialData, or the name of a reference that ships"
        msg = f"`reference` must {must}, got {type(reference).__name__}."
        raise TypeError(msg)
    if isinstance(reference, sd.SpatialData) and table_key not in reference.tables:
        fix = "Pass the table itself."
        raise missing_key(table_key, where="reference.tables", have=reference.tables, fix=fix)
    return as_table(reference, table_key=table_key)


def of_table(adata: AnnData, *, use_rep: str, groupby: str, slides: str | None) -> LabelReference:
    """Cells of a table that have an embedding, a label and, if they are asked for, a slide."""
    for what, column in (("groupby", groupby), ("slides", slides)):
        if what == "slides" and column is None:
            continue
        fix = f"`{what}=` names a column of the reference."
        if not isinstance(column, str):
            raise bad_value(what, must="be the name of one column", got=column, fix=fix)
        if column not in adata.obs:
            raise missing_key(column, where="reference.obs", have=adata.obs.columns, fix=fix)
    if adata.obs[groupby].dtype.kind in "iufc":
        fix = "If its numbers stand for classes: `.astype('category')`."
        must, got = "name a column of classes (categorical, text or bool)", f"{groupby} ({adata.obs[groupby].dtype})"
        raise bad_value("groupby", must=must, got=got, fix=fix)
    rep, rows = embedded_rows(adata, use_rep, owner="reference")
    labels = _labels(adata.obs[groupby])
    named = (labels.notna() & (adata.obs[slides].notna() if slides else True)).to_numpy()
    if not (rows & named).any():
        msg = (
            f"The reference has no cell to learn from: of {adata.n_obs}, {int(rows.sum())} have an embedding in "
            f"obsm[{use_rep!r}] and {int(named.sum())} a label in obs[{groupby!r}]"
            + (f" and a slide in obs[{slides!r}]." if slides else ".")
        )
        raise ValueError(msg)
    kept = rows & named
    if slides and len(names := adata.obs.loc[kept, slides].unique()) < 2:
        must, got = "name a column with at least two slides", f"{slides}, with {listing(names)}"
        fix = "One is held out, and learned from the others. With one slide: `slides=None`."
        raise bad_value("slides", must=must, got=got, fix=fix)
    return LabelReference(
        name="table",
        encoder=encoder_of(adata, use_rep),
        x=np.asarray(rep[kept], dtype=np.float32),
        labels=labels[kept].to_numpy(dtype=str),
        slides=adata.obs.loc[kept, slides].astype(str).to_numpy(dtype=str) if slides else None,
        n_left_out=int((~kept).sum()),
    )


def _labels(column: pd.Series) -> pd.Series:
    """Labels as names that a file can hold as columns, missing where there is none; an error if two become one."""
    of_label = {label: str(label).replace("/", "_") for label in column.dropna().unique() if str(label).strip()}
    names = Counter(of_label.values())
    merged = [label for label, name in of_label.items() if names[name] > 1]
    refused = [label for label, name in of_label.items() if name in _NO_COLUMN]
    for labels, why in (
        (merged, "be told apart when '/' is written as '_'"),
        (refused, "be names that files can hold"),
    ):
        if labels:
            must, fix = f"name a column whose labels can {why}", "Give these labels other names."
            raise bad_value("groupby", must=must, got=listing(labels), fix=fix)
    return column.astype(object).map(of_label)


def encoder_of(adata: AnnData, use_rep: str) -> str:
    """In words, what made an embedding; empty where the table does not say."""
    column = use_rep + keys.ENCODER
    made = adata.obs[column].dropna().astype(str).unique() if column in adata.obs else []
    return str(made[0]) if len(made) else ""


def check_same_encoder(reference: LabelReference, words: str, *, use_rep: str) -> bool:
    """Raise if the reference was embedded by another encoder, or only one side says by which.

    Stain may differ: nuclei whose stain was normalised may be compared with a reference whose was not. Returns whether
    it does.
    """
    if reference.encoder.split(_STAIN)[0] != words.split(_STAIN)[0]:
        msg = (
            f"Reference and query were embedded differently: obsm[{use_rep!r}] of the reference by "
            f"{reference.encoder or 'an unknown model'!r}, of the query by {words or 'an unknown model'!r}. Their "
            "columns do not mean the same. Embed both with `lm.tl.embed` and the same model."
        )
        raise ValueError(msg)
    return reference.encoder != words


def write_reference(reference: LabelReference, folder: Path = FOLDER) -> Path:
    """Write a reference to ``<name>-<model>.npz``, the embedding as float16, in place of one of that name and model."""
    types, code = np.unique(reference.labels, return_inverse=True)
    slides, slide = np.unique(np.zeros(0, str) if reference.slides is None else reference.slides, return_inverse=True)
    facts = {"name": reference.name, "encoder": reference.encoder, **reference.facts}
    content = io.BytesIO()
    np.savez_compressed(
        content,
        x=reference.x.astype(np.float16),
        code=code.astype(np.uint8),
        types=types,
        slide=slide.astype(np.uint16),
        slides=slides,
        facts=np.array(json.dumps(facts, sort_keys=True)),
    )
    path = folder / f"{reference.name}-{reference.encoder.split(',')[0].split(' ')[0]}.npz"
    write_whole(path, content.getvalue())
    return path


def read_reference(path: Path) -> LabelReference:
    """What `write_reference` wrote."""
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        return LabelReference(
            name=facts.pop("name"),
            encoder=facts.pop("encoder"),
            x=file["x"].astype(np.float32),
            labels=file["types"][file["code"]],
            slides=file["slides"][file["slide"]] if len(file["slides"]) else None,
            facts=facts,
        )


def shipped(name: str, words: str, *, use_rep: str) -> LabelReference:
    """The reference of that name for the encoder of an embedding, given in words."""
    files = sorted(FOLDER.glob("*.npz"))
    one_of("reference", name, sorted({path.name.split("-")[0] for path in files}))
    found = [read_reference(path) for path in files if path.name.split("-")[0] == name]
    for reference in found:
        if words and reference.encoder.split(_STAIN)[0] == words.split(_STAIN)[0]:
            return reference
    msg = (
        f"The reference {name!r} was embedded by {listing(sorted(r.encoder for r in found))}, obsm[{use_rep!r}] by "
        f"{words or 'an unknown model'!r}. Embed the nuclei with one of these models, or give labelled nuclei of your "
        "own, embedded as these are, as `reference`."
    )
    raise ValueError(msg)
