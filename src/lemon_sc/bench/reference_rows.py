"""What the LEMON paper printed, row by row, and where it contradicts itself."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from lemon_sc._core.errors import one_of

PAPER = "LEMON"
KIND = "reference"
TABLES = ("1", "2", "6", "7", "9", "10", "11", "12", "text")
"""Tables of the paper that hold results of encoders; ``"text"`` is what only its text states."""
COLUMNS = ("paper", "table", "task", "encoder", "protocol", "metric", "mean", "sd", "kind", "note")

NOTES: tuple[tuple[dict[str, str], str], ...] = (
    (
        {"table": "1", "task": "nucls_super"},
        "Captions of the paper say 'supervised' where the super-classes of NuCLS are meant.",
    ),
    ({"table": "1", "task": "nucls_super", "encoder": "lemon"}, "The section on cost prints .773."),
    ({"table": "1", "task": "midog25", "encoder": "lemon"}, "Table 11 prints .741, the text .748."),
    ({"table": "1", "task": "midog25", "encoder": "imagenet_r50"}, "The text prints a standard deviation of .005."),
    ({"table": "1", "task": "midog25", "encoder": "dinov2_l"}, "Table 11 prints .647."),
    ({"table": "1", "task": "midog25", "encoder": "uni"}, "Table 11 prints .623."),
    ({"table": "1", "task": "midog25", "encoder": "virchow2"}, "Table 11 prints .618."),
    ({"table": "11", "encoder": "lemon", "metric": "balanced_accuracy"}, "Table 1 prints .746, the text .748."),
    ({"table": "11", "encoder": "dinov2_l", "metric": "balanced_accuracy"}, "Table 1 prints .645."),
    ({"table": "11", "encoder": "uni", "metric": "balanced_accuracy"}, "Table 1 prints .619."),
    ({"table": "11", "encoder": "virchow2", "metric": "balanced_accuracy"}, "Table 1 prints .621."),
    ({"table": "1", "task": "hest_breast", "encoder": "lemon"}, "Not the best: DINOv2 g/14 has .164."),
    (
        {"table": "1", "task": "hest_lung", "encoder": "lemon"},
        "Not the best of the paper: its appendix has .147 for DINOv2 without local crops + KDE.",
    ),
    (
        {"table": "12", "encoder": "lemon", "metric": "balanced_accuracy"},
        "Not the best: H-Optimus-0 has .648.",
    ),
    (
        {"table": "12"},
        "The paper numbers the classes by size, in contradiction to the order in which it names them; classes are "
        "matched by name here.",
    ),
    (
        {"task": "midog25", "metric": "aupr"},
        "The positive class is the normal mitotic figure (85 %): the values make no sense for the other.",
    ),
    (
        {"task": "midog25_128", "metric": "aupr"},
        "The positive class is the normal mitotic figure (87 %): the values make no sense for the other.",
    ),
    (
        {"table": "7"},
        "The paper does not say whether embeddings are standardised; its root mean square differences are those of "
        "standardised ones.",
    ),
    ({"table": "text", "task": "nucls_super"}, "Of the section on cost; Table 1 prints .779."),
    ({"table": "text", "task": "midog25"}, "Table 1 prints .746, Table 11 .741."),
    (
        {"table": "text", "task": "cost"},
        "Called FLOPs in the paper: multiply-accumulates of linear and convolution layers, without the products of "
        "attention.",
    ),
)
"""Rows (all that agree in the given columns) and what to know about them."""


def reference(table: str | int | None = None) -> pd.DataFrame:
    """Every value of the LEMON paper's tables of results, one per row, with its inconsistencies as notes.

    Parameters
    ----------
    table
        One of the paper's tables: 1, 2, 6, 7, 9, 10, 11, 12, or ``"text"`` for values that only the text states. All
        by default.

    Returns
    -------
    Columns ``paper``, ``table`` (text), ``task``, ``encoder``, ``protocol``, ``metric``, ``mean``, ``sd`` (NaN where
    none is printed; over folds, of HEST over slides), ``kind`` (``"reference"``) and ``note`` (empty where there is
    nothing to say). Names of tasks, protocols and metrics are those of `lm.bench.run`, names of encoders those of
    `lm.models.available`, with the variant in brackets where the paper trained or pooled one in several ways. Billions
    of multiply-accumulates are ``gmacs``.

    Raises
    ------
    ValueError
        No such table.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> rows = lm.bench.reference(7)
    >>> rows.loc[rows["encoder"] == "lemon", ["metric", "mean"]].to_string(index=False, header=False).split()
    ['rmse', '0.777', 'cosine', '0.687', 'knn_overlap', '0.398']
    """
    file = resources.files("lemon_sc.bench").joinpath("reference_rows.csv")
    with file.open(encoding="utf-8") as lines:
        rows = pd.read_csv(lines, dtype={"table": str})
    rows = rows.assign(paper=PAPER, kind=KIND, note=_notes(rows))[list(COLUMNS)]
    if table is None:
        return rows
    one_of("table", str(table), TABLES)
    return rows[rows["table"] == str(table)].reset_index(drop=True)


def _notes(rows: pd.DataFrame) -> pd.Series:
    """Notes on each row, joined."""
    notes = pd.Series("", index=rows.index)
    for where, text in NOTES:
        met = pd.concat([rows[column] == value for column, value in where.items()], axis=1).all(axis=1)
        notes[met] = notes[met].where(notes[met] == "", notes[met] + " ") + text
    return notes
