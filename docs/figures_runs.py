"""Draw the curves of training runs in docs/_static from their logs: ``python docs/figures_runs.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
GUIDED = {
    "explained": "explained variance\nof the targets",
    "probe": "balanced accuracy,\natypical mitoses",
    "cosine": "mean cosine",
    "rank": "effective rank (of 192)",
}
RUNS = {
    "train_cpu": {
        "loss": "loss of MoCo v3",
        "probe": "balanced accuracy,\natypical mitoses",
        "cosine": "mean cosine",
        "rank": "effective rank (of 192)",
    },
    "train_guided": GUIDED,
    "train_wide": GUIDED,
    "train_large": GUIDED,
}
METHODS = {
    "moco_a0": ("MoCo v3, a0", "#999999"),
    "moco_a1_gray": ("MoCo v3, a1+gray", "#0072b2"),
    "dinov2_kde": ("DINOv2 + KDE", "#009e73"),
    "cpu_guided": ("guided", "#d55e00"),
    "moco_guided": ("MoCo v3 + guidance", "#cc79a7"),
}
SHOWN = {"rank": "effective rank (of 192)", "cosine": "mean cosine"}
TASKS = {"amibr": "mitoses (AMi-Br)", "nucls": "types (NuCLS)", "consep": "types (CoNSeP)"}


def curves(run, panels):
    """Columns of the log of a run over the crops it has seen."""
    log = pd.read_csv(RESULTS / run / "metrics.csv")
    figure, axes = plt.subplots(1, len(panels), figsize=(9.5, 2.2), constrained_layout=True)
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        shown = log.dropna(subset=column)
        axis.plot(shown["images"] / 1000, shown[column], color="#0072b2", linewidth=1)
        axis.set(xlabel="thousand crops", ylabel=label)
    figure.savefig(HERE / "_static" / f"{run.replace('train_', 'training_')}.png", dpi=130)


def methods():
    """Monitors of the runs of equal cost over the share of the run, and what each reaches."""
    scores = pd.read_csv(RESULTS / "train_methods.csv").query("metric == 'auc'")
    names = [name for name in METHODS if name in set(scores["method"])]
    widths = [1] * len(SHOWN) + [1.6]
    figure, axes = plt.subplots(1, len(widths), figsize=(9.5, 2.6), constrained_layout=True, width_ratios=widths)
    for axis, (column, label) in zip(axes, SHOWN.items(), strict=False):
        for name in names:
            log = pd.read_csv(RESULTS / "train_methods" / f"{name}.csv").dropna(subset=column)
            axis.plot(log["step"] / log["step"].max(), log[column], color=METHODS[name][1], linewidth=1)
        axis.set(xlabel="share of the run", ylabel=label)
    for k, name in enumerate(names):
        own = scores[scores["method"] == name].set_index("task").loc[[*TASKS]]
        at = [t + (k - (len(names) - 1) / 2) * 0.15 for t in range(len(TASKS))]
        text, color = METHODS[name]
        axes[-1].errorbar(at, own["mean"], own["sd"], color=color, label=text, fmt="o", markersize=4, linewidth=1)
    axes[-1].set(ylabel="AUC of a linear probe", xticks=range(len(TASKS)), xticklabels=TASKS.values())
    axes[-1].legend(frameon=False, fontsize=7, loc="lower right")
    figure.savefig(HERE / "_static" / "training_methods.png", dpi=130)


def main() -> None:
    """Curves of each run whose log is kept, and the comparison of methods."""
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    for run, panels in RUNS.items():
        curves(run, panels)
    if (RESULTS / "train_methods.csv").is_file():
        methods()


if __name__ == "__main__":
    main()
