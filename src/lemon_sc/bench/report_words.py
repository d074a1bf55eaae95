"""What the pages of a benchmark report are called, which tasks stand on which, and how things are named on them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

CLASSES = ("balanced_accuracy", "auc", "aupr", "f1_macro", "f1_weighted")
STABILITY = ("rmse", "cosine", "knn_overlap")
EXPRESSION = ("pcc", "pcc_pooled")

ENCODERS = {
    "imagenet_r18": "ImageNet R18",
    "imagenet_r50": "ImageNet R50",
    "dinov2_s": "DINOv2 s/14",
    "dinov2_b": "DINOv2 b/14",
    "dinov2_l": "DINOv2 l/14",
    "dinov2_g": "DINOv2 g/14",
    "uni": "UNI l/16",
    "virchow2": "Virchow2 h/14",
    "hoptimus0": "H-Optimus-0",
    "volta": "VOLTA R18",
    "lemon": "LEMON s/8",
    "random_vit_s8": "untrained ViT-S/8",
    "pixel_pca": "pixels (PCA)",
    "histogram": "colour histogram",
}
"""How encoders are written where their name is not."""

POOLINGS = {
    "cls_40": "class token of 40 px",
    "cls_128": "class token of 128 px",
    "centre_128": "centre tokens of 128 px",
}
"""How ways to look at a nucleus with a tile model are written."""

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "aupr": "AUPR",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "pcc": "correlation (mean over slides)",
    "pcc_pooled": "correlation (pooled)",
    "n_undefined": "classes or genes without a score, mean over folds",
    "rmse": "RMS difference",
    "cosine": "cosine",
    "knn_overlap": "overlap of 100 neighbours",
    "I": "Moran's I",
    "slide_identity": "naming the slide from the embedding (balanced accuracy)",
    "slide_identity_chance": "chance of naming it",
    "knn_overlap_chance": "overlap by chance",
    "n_shared_rows": "nuclei with the same embedding on both sides of the split",
    "n_overlapping": "nuclei that share px with one on the other side",
    "gmacs": "G MACs",
    "gmacs_attention": "with attention",
    "million_parameters": "M parameters",
    "nuclei_per_second": "nuclei/s here",
    "dim": "width",
}
"""How scores are written."""

PROTOCOLS = {
    "stratified": "random folds",
    "slide": "whole slides held out",
    "patient": "whole patients held out",
    "blocks": "blocks of the slide held out",
    "stain": "six reference stains",
    "stain_probe": "a probe that learned from the originals, tested on restained nuclei",
    "stain_probe_original": "the same probe, tested on the originals",
    "graph": "graph of the nearest neighbours in the embedding",
    "card": "from the architecture",
}
"""How kinds of folds are written."""

LESS_IS_BETTER = frozenset({"rmse", "gmacs", "gmacs_attention", "million_parameters"})


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of the report.

    Attributes
    ----------
    name
        File, without its ending.
    title, lead
        Heading, and what the page is about.
    tasks
        Tasks whose measured values it shows, where the run has them.
    metrics
        Scores in its tables, the one that counts first.
    published
        Published values it shows: (task, table of the paper).
    figure
        Kind of its figure.
    aside
        Why measured and published values are not to be compared.
    """

    name: str
    title: str
    lead: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    published: tuple[tuple[str, str], ...] = ()
    figure: str = ""
    aside: str = ""


SIBLING = (
    "AMi-Br and AtNorM-Br are siblings of MIDOG25, the paper's set: the same question on other data. The numbers below "
    "show what is usual for the task; they do not rank encoders of one table against those of the other."
)

PAGES = (
    Page(
        name="mitosis",
        title="Normal and atypical mitoses",
        lead="Is a mitotic figure normal or atypical? One crop of 40 px (10 µm) around each, a linear probe on the "
        "frozen embedding.",
        tasks=("amibr", "amibr_all", "atnorm", "ami_br", "atnorm_br", "atnorm_md", "midog25"),
        metrics=CLASSES,
        published=(("midog25", "1"), ("midog25", "11"), ("midog25", "text")),
        figure="dots",
        aside=SIBLING,
    ),
    Page(
        name="nuclei",
        title="Types of nuclei",
        lead="Which type is a nucleus of? The same probe, on sets with several classes.",
        tasks=(
            "consep", "brecahad", "nucls_sample", "nucls_super", "nucls_main", "nucls_raw",
            "pannuke",
        ),
        metrics=CLASSES,
        published=(("nucls_super", "1"), ("nucls_super", "10"), ("nucls_super", "text"), ("pannuke", "12")),
        figure="dots",
        aside="The sample of NuCLS is 15 of its tiles, with a few hundred of its 37,307 nuclei; the other sets are not "
        "in the paper. Nothing below ranks encoders of one table against those of another.",
    ),
    Page(
        name="tiles",
        title="Against encoders of tiles",
        lead="An encoder of tiles sees 128 px (32 µm) around the nucleus: its class token describes the tile, the "
        "tokens at its centre the nucleus in its surroundings. An encoder of nuclei sees the inner 40 px of the same "
        "crops.",
        tasks=("tile_level", "midog25_128"),
        metrics=CLASSES,
        published=(("midog25_128", "9"),),
        figure="dots",
        aside=SIBLING,
    ),
    Page(
        name="robustness",
        title="Robustness to stain",
        lead="Every nucleus is restained towards each of six reference slides (Macenko) and embedded again. How far "
        "does its embedding move, and does it keep its neighbours?",
        tasks=("stain_robustness", "stain_robustness_midog25"),
        metrics=STABILITY,
        published=(("stain_robustness_midog25", "7"),),
        figure="bars",
        aside="Measured on AMi-Br with six reference slides of its own; the paper used MIDOG25 and six slides of TCGA.",
    ),
    Page(
        name="expression",
        title="Expression from morphology",
        lead="How much of a gene's expression can a ridge regression tell from the embedding, on slides it was not "
        "fitted on? HER2ST has spots of about 100 µm: the nuclei's embeddings are those of patches at the spot.",
        tasks=("her2st", "xenium_expression", "hest_bowel", "hest_breast", "hest_lung"),
        metrics=EXPRESSION,
        published=(("hest_bowel", "1"), ("hest_breast", "1"), ("hest_lung", "1")),
        figure="dots",
        aside="The paper's values are of single cells on whole slides of Xenium; HER2ST has spots that hold many "
        "cells, and the Xenium crop some hundred cells of one slide. They share the protocol, not the question.",
    ),
    Page(
        name="moran",
        title="Markers on the embedding",
        lead="Do cells that look alike, to an encoder, express a gene alike? Moran's I of markers of the lineages, on "
        "the graph of the nearest neighbours in the embedding; 0 is chance. The paper states that all its markers have "
        "I > 0, and prints no numbers.",
        tasks=("xenium_markers",),
        metrics=("I",),
        figure="moran",
    ),
    Page(
        name="cost",
        title="What an encoder costs",
        lead="Multiply-accumulates for one nucleus, counted over linear and convolution layers as in the paper, "
        "against what it reaches.",
        tasks=("cost",),
        metrics=("gmacs", "gmacs_attention", "million_parameters", "dim", "nuclei_per_second"),
        published=(("cost", "text"),),
        figure="cost",
        aside=SIBLING,
    ),
    Page(
        name="training",
        title="What training changes",
        lead="Augmentation, method, and the size and diversity of the corpus.",
        tasks=("composition",),
        metrics=("balanced_accuracy", "pcc"),
        published=tuple(
            (task, table)
            for table, tasks in (("2", ("midog25", "nucls_super", "hest_bowel", "hest_breast", "hest_lung")),
                                 ("6", ("midog25", "nucls_super")),
                                 ("text", ("hest_bowel", "hest_breast", "hest_lung")))
            for task in tasks
        ),
        figure="curves",
    ),
)  # fmt: skip
"""The pages with numbers, in order."""


SHORT = {
    "amibr": "AMi-Br, held-out slides",
    "amibr_all": "AMi-Br, all slides",
    "atnorm": "AtNorM-Br (TCGA)",
    "ami_br": "AMi-Br, as published",
    "atnorm_br": "AtNorM-Br, as published",
    "atnorm_md": "AtNorM-MD, as published",
    "midog25": "MIDOG25",
    "midog25_128": "MIDOG25, 128 px",
    "brecahad": "BreCaHAD, 4 classes",
    "nucls_sample": "NuCLS, sample, 3 classes",
    "consep": "CoNSeP, 4 classes",
    "nucls_super": "NuCLS, 3 super-classes",
    "nucls_main": "NuCLS, 6 classes",
    "nucls_raw": "NuCLS, 12 classes",
    "pannuke": "PanNuke, 5 classes",
    "her2st": "HER2ST, spots",
    "xenium_expression": "Xenium crop, cells",
    "hest_bowel": "HEST bowel",
    "hest_breast": "HEST breast",
    "hest_lung": "HEST lung",
    "stain_robustness": "AMi-Br",
    "stain_robustness_midog25": "MIDOG25",
    "tile_level": "AMi-Br, 128 px",
}
"""Titles of tasks where there is little room."""


def encoder_label(name: str) -> str:
    """How an encoder is written.

    Parameters
    ----------
    name
        Its name, perhaps with a variant in brackets, or with the pooling of a tile model behind a colon.

    Returns
    -------
    Text.
    """
    base, bracket, variant = name.partition(" (")
    base, colon, pooling = base.partition(":")
    return f"{ENCODERS.get(base, base)}{bracket}{variant}{colon and ', '}{POOLINGS.get(pooling, pooling)}"


def metric_label(name: str) -> str:
    """How a score is written.

    Parameters
    ----------
    name
        Its name, perhaps with the prefix ``null_`` of values on shuffled labels.

    Returns
    -------
    Text.
    """
    if name.startswith("null_"):
        return f"{metric_label(name.removeprefix('null_'))}, labels shuffled"
    return METRICS.get(name, name.replace("_", " "))


def task_label(name: str) -> str:
    """Title of a task: its own where the catalogue has it, else its name.

    Parameters
    ----------
    name
        Of the task.

    Returns
    -------
    Text.
    """
    from lemon_sc.bench import catalogue

    return catalogue.task(name).title if name in catalogue.tasks() else name


def short_label(name: str) -> str:
    """Title of a task for a figure, broken into lines.

    Parameters
    ----------
    name
        Of the task.

    Returns
    -------
    Text.
    """
    return textwrap.fill(SHORT.get(name) or task_label(name), 34)
