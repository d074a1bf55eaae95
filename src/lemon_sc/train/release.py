"""From a run to a weight file with its card, and on to the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import json
import math
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lemon_sc._core.errors import bad_value, one_of
from lemon_sc.models import lemon
from lemon_sc.models.card_files import CARD, WEIGHTS, card_text, write_pair
from lemon_sc.models.cards import ModelCard
from lemon_sc.models.checkpoint import digest
from lemon_sc.models.exported import SCHEMA, read_card
from lemon_sc.train.build import build_method
from lemon_sc.train.checkpoint import CHECKPOINT, read_checkpoint, write_whole
from lemon_sc.train.guided import Guided
from lemon_sc.train.logs import last_values
from lemon_sc.train.recipes import ENCODERS, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lemon_sc.train.loop import Run
    from lemon_sc.train.method import Method

LICENCE = "BSD-3-Clause"
"""Of weights that are released with this package."""
CITATION = "LEMON, arXiv:2603.25802"
"""What the method, the network and the views follow."""
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}
LAYOUTS = ("safetensors", "moco_v3")
HUB_STEM = "model"
"""Name of the files on the hub, without suffix."""


def export(
    run: str | PathLike[str] | Run,
    path: str | PathLike[str],
    *,
    name: str | None = None,
    license: str = LICENCE,
    metrics: Mapping[str, float] | None = None,
    precision: str = "fp32",
    layout: str = "safetensors",
    readout: bool = False,
) -> ModelCard:
    """Write the encoder of a run as a weight file that `lm.models.load` reads.

    Parameters
    ----------
    run
        From `fit`; or its folder; or the path of a checkpoint.
    path
        Weight file to write, ``*.safetensors``; its card is written beside it, ``*.json``. With ``layout="moco_v3"``,
        any name: LEMON's own is ``lemon.pth.tar``.
    name
        Name under which results of the encoder are recorded; ``None`` takes that of the file.
    license
        Licence of the weights. The sources of the corpus, with theirs, are on the card: they are to be credited.
    metrics
        Scores to put on the card, beside the last ones of the run's log.
    precision
        ``"fp32"``, or ``"fp16"`` for a file of half the size; it is read into float32.
    layout
        ``"safetensors"``: the encoder. ``"moco_v3"``: a training state as LEMON's was published, with projector,
        predictor and momentum encoder; for ViT-S/8 and ViT-B/8 at 40 px, normalised with LEMON's statistics, since the
        layout has no place to say another. It has no card.
    readout
        Of a run of `Guided`: what the encoder tells of a crop in place of its class token, 72 columns with the names
        of `morphometry` and of quantiles of the colours, in standard deviations of the corpus around its mean.

    Returns
    -------
    The card of the encoder.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    TypeError
        Something else as run.
    ValueError
        It is damaged, or of a run that trains no encoder; the layout cannot hold the encoder, or it was not guided and
        tells nothing; or a licence or scores that the card cannot hold.
    OSError
        The disk is full, or cannot be written to; nothing is half-written.
    """
    one_of("layout", layout, LAYOUTS)
    one_of("precision", precision, PRECISIONS)
    path, source = Path(path), _checkpoint_of(run)
    if layout == "safetensors" and path.suffix != WEIGHTS:
        raise bad_value("path", must=f"end in '{WEIGHTS}'", got=str(path))
    given = _finite(metrics or {})
    found = read_checkpoint(source)
    if "method" not in found:
        must = "be of `lm.train.fit`, whose encoder is to be exported"
        fix = "Other runs have written their weights, with a card, into their folder."
        raise bad_value("run", must=must, got=str(source), fix=fix)
    recipe = Recipe.from_dict(found["recipe"])
    method = build_method(recipe)
    method.load_state_dict(found["method"])
    state = {k: v.detach().contiguous() for k, v in method.encoder_state_dict().items()}
    logged = last_values(source.parent)
    scores = {k: v for k, v in logged.items() if k in {"loss", "rank", "cosine", "probe"}} | given
    card = _card(name or path.name.split(".")[0], recipe, found, license=license, metrics=scores)
    if readout:
        card = _add_readout(card, state, method, layout=layout)
    if layout == "moco_v3":
        content = _moco_v3(found, state, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return dataclasses.replace(card, sha256=digest(path))
    dtype = PRECISIONS[precision]
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    return write_pair(path, cast, card, schema=SCHEMA)


def _add_readout(card: ModelCard, state: dict[str, torch.Tensor], method: Method, *, layout: str) -> ModelCard:
    """The linear layer of a guided run beside the weights, in place, and the card of both."""
    if not isinstance(method, Guided) or layout != "safetensors":
        must = "be False: the encoder was not guided" if layout == "safetensors" else f"be False for {layout!r}"
        raise bad_value("readout", must=must, got=True)
    state["head.weight"], state["head.bias"], names = method.guide.readout()
    return dataclasses.replace(card, dim=len(names), features=names)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Scores as JSON has them."""
    for name, value in metrics.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise bad_value("metrics", must="hold finite numbers by name", got={name: value})
    return {str(name): float(value) for name, value in metrics.items()}


def _checkpoint_of(run: str | PathLike[str] | Run) -> Path:
    """The checkpoint's file."""
    if not isinstance(run, str | PathLike) and not hasattr(run, "checkpoint"):
        msg = f"`run` must be what `lm.train.fit` gave, its folder, or a checkpoint, got {type(run).__name__}."
        raise TypeError(msg)
    path = Path(run) if isinstance(run, str | PathLike) else run.checkpoint
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.is_file():
        msg = f"There is no checkpoint at '{file}'. Name the folder of a run of `lm.train.fit`, or its checkpoint."
        raise FileNotFoundError(msg)
    return file


def _card(
    name: str,
    recipe: Recipe,
    found: Mapping[str, Any],
    *,
    license: str,
    metrics: Mapping[str, float],
) -> ModelCard:
    size = ENCODERS[recipe.encoder]
    return ModelCard(
        name=name,
        dim=size["dim"],
        input_px=recipe.image_px,
        mean=recipe.mean,
        std=recipe.std,
        arch=f"{recipe.encoder}_{recipe.image_px}",
        license=license,
        citation=CITATION,
        pooling="cls",
        num_heads=size["num_heads"],
        training={
            "version": found["version"],
            "step": found["step"],
            "recipe": recipe.to_dict() | {"init": recipe.init and Path(recipe.init).name},
            "began_with": found.get("began_with"),  # older checkpoints lack it
            "corpus": found["corpus"],
            "metrics": dict(metrics),
        },
    )


def _moco_v3(found: Mapping[str, Any], state: dict[str, torch.Tensor], recipe: Recipe) -> dict[str, Any]:
    """A training state in the layout of LEMON's checkpoint."""
    reasons = {
        "was not trained by MoCo v3": recipe.method != "moco_v3",
        f"is a {recipe.encoder}, and readers expect a ViT-S/8 or ViT-B/8 of 12 heads": recipe.encoder
        not in {"vit_s8", "vit_b8"},
        f"takes crops of {recipe.image_px} px, and readers expect {lemon.CARD.input_px}": recipe.image_px
        != lemon.CARD.input_px,
        "has layer scales, which readers do not know": recipe.layer_scale is not None,
        "is normalised with statistics that are not LEMON's": (recipe.mean, recipe.std) != (lemon.MEAN, lemon.STD),
    }
    if why := [reason for reason, holds in reasons.items() if holds]:
        msg = f"The layout of MoCo v3 cannot hold this encoder: it {'; it '.join(why)}. Use layout='safetensors'."
        raise ValueError(msg)
    online = {f"module.base_encoder.{k}": v for k, v in state.items()}
    others = {f"module.{k}": v for k, v in found["method"].items() if f"module.{k}" not in online}
    arch = {"vit_s8": "vit_small", "vit_b8": "vit_base"}[recipe.encoder]
    epoch = int(found["step"]) // recipe.epoch_steps
    return {
        "epoch": epoch,
        "arch": arch,
        "state_dict": online | others,
        "optimizer": found["optimizer"],
        "scaler": {},
    }


def push_to_hub(
    path: str | PathLike[str],
    repo: str,
    *,
    private: bool = True,
    token: str | None = None,
    message: str = "Upload encoder",
) -> str:
    """Upload an exported encoder to the Hugging Face Hub, in one commit: weights, card, and a page about them.

    Parameters
    ----------
    path
        Weight file of `export`, with its card beside it.
    repo
        Repository, ``"name/model"``; it is made if it is not there.
    private
        Whether a repository that is made is private.
    token
        Of an account that may write; ``None`` takes that of ``hf auth login``.
    message
        Message of the commit.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    FileNotFoundError, ValueError
        No weight file, or none that its card describes.
    PermissionError
        Nobody is logged in, or the account may not write there.
    ConnectionError
        The hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    path = Path(path)
    if not path.is_file():
        msg = f"There is no weight file at '{path}'. Write one with `lm.train.export`."
        raise FileNotFoundError(msg)
    card = read_card(path)
    if card.sha256 != digest(path):
        msg = f"'{path}' is not the weight file of its card '{path.with_suffix(CARD).name}'. Export it again."
        raise ValueError(msg)
    card = dataclasses.replace(card, hub=repo, files=(HUB_STEM + WEIGHTS,), url=f"https://huggingface.co/{repo}")
    content: dict[str, Any] = {
        HUB_STEM + WEIGHTS: str(path),
        HUB_STEM + CARD: card_text(card, SCHEMA).encode(),
        "README.md": readme(card).encode(),
    }
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in content.items()]
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)
    except errors.LocalTokenNotFoundError as error:
        msg = f"Nothing was uploaded to {repo}: nobody is logged in. Run `hf auth login`, or pass `token=`."
        raise PermissionError(msg) from error
    except errors.HTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)  # there is none without an answer
        why = str(error).strip() if status else f"the hub cannot be reached ({error})."
        msg = f"Nothing was uploaded to {repo}: {why}"
        kind = PermissionError if status in {401, 403} else ConnectionError
        raise kind(msg) from error


def readme(card: ModelCard) -> str:
    """The page about an encoder in its repository, Markdown with the hub's metadata.

    Parameters
    ----------
    card
        Its card.

    Returns
    -------
    The text of its ``README.md``.
    """
    training = card.training
    corpus, recipe = training.get("corpus", {}), training.get("recipe", {})
    sources = [f"- {s['name']}: {s['n_crops']} crops, {s['licence']}" for s in corpus.get("sources", [])]
    scores = [f"- {k}: {v:.4g}" for k, v in training.get("metrics", {}).items()]
    size = f"{card.input_px} x {card.input_px} px at {card.mpp:g} um/px"
    lines = [
        "---",
        f"license: {card.license.lower() or 'other'}",
        "library_name: lemon_sc",
        "tags: [histology, nuclei, single-cell, self-supervised]",
        "---",
        f"# {card.name}",
        "",
        f"Encoder of cell nuclei in H&E: crops of {size} in, {card.dim} numbers out. Download both files of it:",
        "",
        "```python",
        "from huggingface_hub import snapshot_download",
        "import lemon_sc as lm",
        "",
        f'encoder = lm.models.load(snapshot_download("{card.hub}") + "/{HUB_STEM}{WEIGHTS}")',
        "```",
        "",
        f"Trained with lemon_sc {training.get('version', '')}, recipe `{recipe.get('name', '')}` "
        f"({recipe.get('method', '')}, {recipe.get('encoder', '')}), {training.get('step', 0)} steps, on "
        f"{corpus.get('n_crops', 0)} crops of {corpus.get('n_slides', 0)} slides "
        f"(manifest sha256 {corpus.get('sha256', '')}):",
        "",
        *sources,
        "",
        *(["Scores:", "", *scores, ""] if scores else []),
        f"Weights: {card.license or 'licence not stated'}, sha256 {card.sha256}. {card.citation}.",
        "",
        "The whole recipe is in the card:",
        "",
        "```json",
        json.dumps(recipe, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)
