"""All tasks, by name. A task is a declaration; what its kind of measurement does stands in `probes` and its like."""

from __future__ import annotations

from typing import Any

from lemon_sc._core.errors import one_of
from lemon_sc.bench.kinds import Source, Task
from lemon_sc.bench.sets import her2st, hest, mitoses, nuclei_csv, nucls, pannuke, xenium
from lemon_sc.metrics.classification import METRICS

HEADLINE = ("balanced_accuracy", *(name for name in METRICS if name != "balanced_accuracy"))
"""Scores of classes, the one that counts first."""

MOST = 5000
"""Nuclei of a task on the small sets."""

MOST_CELLS = 10_000
"""Cells of a slide of HEST."""

MARKERS = (
    "EPCAM", "KRT7", "KRT8", "ERBB2", "ESR1", "FOXA1", "GATA3", "CDH1", "KRT14", "KRT5", "ACTA2", "MYH11", "LUM",
    "POSTN", "PDGFRB", "PECAM1", "VWF", "CD3E", "CD8A", "MS4A1", "MZB1", "CD68", "CD163", "ITGAX", "CPA3", "ADIPOQ",
)  # fmt: skip
"""Genes of the lineages of breast tissue: epithelium, myoepithelium, stroma, vessels, immune cells, fat."""

NONE = Source(url="no data of its own", licence="", layout="nothing.")

COMPOSED_OF = ("midog25", "nucls_super", "nucls_main", "nucls_raw")
"""Tasks of the published study of corpus size."""

COMPOSED_HERE = ("amibr", "atnorm", "nucls_sample")
"""What stands for them where they are not there."""


def _classes(name: str, title: str, adapter: Any, source: Source, **more: Any) -> Task:
    given = {"protocols": ("stratified", "slide"), "version": 1, **more}
    return Task(
        name=name, title=title, probe="classification", metrics=HEADLINE, adapter=adapter, source=source, **given
    )


def _small(name: str, title: str, of: str, *, where: str | None = None, **more: Any) -> Task:
    adapter = nuclei_csv.reader(of, where=where, label=more.pop("label", "type"))
    return _classes(name, title, adapter, nuclei_csv.SOURCES[of], **{"most": MOST, **more})


def _hest(organ: str) -> Task:
    return Task(
        name=f"hest_{organ}",
        version=1,
        title=f"Expression of the 50 top genes of single cells, HEST {organ}",
        probe="expression",
        metrics=("pcc", "pcc_pooled"),
        adapter=hest.reader(organ),
        source=hest.SOURCE,
        protocols=("slide", "patient"),
        most=MOST_CELLS,
        reference=f"hest_{organ}",
    )


_MITOSES: dict[str, Any] = {"pos_label": "normal", "reference": "midog25"}
_PUBLISHED: dict[str, Any] = {"pos_label": mitoses.NORMAL}

_ALL = (
    _small("amibr", "Normal or atypical mitosis, AMi-Br, slides that no corpus holds", "amibr",
           where="set == 'AMi-Br' and held_out", **_MITOSES),
    _small("amibr_all", "Normal or atypical mitosis, AMi-Br, all slides", "amibr", where="set == 'AMi-Br'", **_MITOSES),
    _small("atnorm", "Normal or atypical mitosis, AtNorM-Br (TCGA), slides not named", "amibr",
           where="set == 'AtNorM-Br'", protocols=("stratified",), **_MITOSES),
    _small("brecahad", "Tumour, other, apoptosis, mitosis: BreCaHAD, cases that no corpus holds", "brecahad",
           where="held_out"),
    _small("nucls_sample", "Tumour, lymphocyte, stroma: a sample of NuCLS", "nucls_sample",
           where="type != 'other_nucleus'", reference="nucls_super"),
    _small("consep", "Inflammatory, epithelial, spindle, other: CoNSeP", "consep"),
    _classes("nucls_super", "NuCLS, three super-classes", nucls.reader("super"), nucls.SOURCE,
             protocols=("stratified", "slide", "patient"), reference="nucls_super"),
    _classes("nucls_main", "NuCLS, six main classes", nucls.reader("main"), nucls.SOURCE,
             protocols=("stratified", "slide", "patient"), reference="nucls_main"),
    _classes("nucls_raw", "NuCLS, twelve raw classes", nucls.reader("raw"), nucls.SOURCE,
             protocols=("stratified", "slide", "patient"), reference="nucls_raw"),
    _classes("pannuke", "PanNuke, five classes", pannuke.read_pannuke, pannuke.SOURCE, window_px=60,
             reference="pannuke"),
    _classes("midog25", "Normal or atypical mitosis, MIDOG25", mitoses.read_midog25, mitoses.MIDOG25,
             reference="midog25", **_PUBLISHED),
    _classes("midog25_128", "Normal or atypical mitosis, MIDOG25, figures with a whole window of 128 px",
             mitoses.read_midog25, mitoses.MIDOG25, window_px=128, reference="midog25_128", **_PUBLISHED),
    *(_classes(name, f"Normal or atypical mitosis, {part} as published", mitoses.reader(part), mitoses.AMIBR,
               reference="midog25", **_PUBLISHED)
      for name, part in (("ami_br", "AMi-Br"), ("atnorm_br", "AtNorM-Br"), ("atnorm_md", "AtNorM-MD"))),
    *(_hest(organ) for organ in hest.SLIDES),
    Task(
        name="her2st", version=1, title="Expression of the 50 top genes of spots of 100 um, HER2+ breast",
        probe="expression", metrics=("pcc", "pcc_pooled"), adapter=her2st.read_her2st, source=her2st.SOURCE,
        protocols=("slide", "patient"),
    ),
    Task(
        name="xenium_expression", version=1, title="Expression of the 50 top genes of cells of one Xenium slide",
        probe="expression", metrics=("pcc", "pcc_pooled"), adapter=xenium.read_xenium, source=xenium.SOURCE,
        protocols=("blocks",),
    ),
    Task(
        name="xenium_markers", version=1, title="Moran's I of lineage markers over the embedding",
        probe="morans_i", metrics=("I", "pval_sim"), adapter=xenium.read_xenium, source=xenium.SOURCE,
        options={"markers": MARKERS},
    ),
    Task(
        name="stain_robustness", version=1, title="Mitoses of AMi-Br in the stains of six other slides",
        probe="robustness", metrics=("rmse", "cosine", "knn_overlap"), protocols=("stratified",), pos_label="normal",
        adapter=nuclei_csv.reader("amibr", where="set == 'AMi-Br' and held_out"), source=nuclei_csv.SOURCES["amibr"],
        most=MOST, reference="stain_robustness_midog25",
    ),
    Task(
        name="stain_robustness_midog25", version=1, title="Mitoses of MIDOG25 in the stains of six other slides",
        probe="robustness", metrics=("rmse", "cosine", "knn_overlap"), protocols=("stratified",),
        adapter=mitoses.read_midog25, source=mitoses.MIDOG25, reference="stain_robustness_midog25", **_PUBLISHED,
    ),
    Task(
        name="tile_level", version=1, title="Class token or central tokens of tile models, AMi-Br at 10 and 32 um",
        probe="tile", metrics=HEADLINE, protocols=("stratified",), pos_label="normal", window_px=128, most=MOST,
        adapter=nuclei_csv.reader("amibr", where="set == 'AMi-Br' and held_out"), source=nuclei_csv.SOURCES["amibr"],
        reference="midog25_128",
    ),
    Task(
        name="cost", version=1, title="Multiply-accumulates, parameters, speed", probe="cost",
        metrics=("gmacs", "gmacs_attention", "million_parameters", "nuclei_per_second"), source=NONE,
        reference="cost",
    ),
    Task(
        name="composition", version=1, title="Balanced accuracy by size and make-up of the corpus",
        probe="composition", metrics=("balanced_accuracy", "standard_error"), source=NONE,
        options={"tasks": COMPOSED_OF, "here": COMPOSED_HERE},
    ),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""All tasks by name."""


def tasks() -> list[str]:
    """Names of the benchmark tasks.

    Returns
    -------
    Names, in the order in which they run.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> "midog25" in lm.bench.tasks()
    True
    """
    return list(TASKS)


def task(name: str) -> Task:
    """A benchmark task by its name.

    Parameters
    ----------
    name
        One of `tasks`.

    Returns
    -------
    Its declaration: data, folds, scores, where the data are published.

    Raises
    ------
    ValueError
        If there is no such task; the message names the nearest.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> lm.bench.task("midog25").pos_label
    'NMF'
    """
    return TASKS[one_of("name", name, TASKS)]
