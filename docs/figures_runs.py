"""Draw the curves of a training run in docs/_static from its log: ``python docs/figures_runs.py``."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).parent
RUN = HERE.parent / "benchmarks" / "results" / "train_cpu" / "metrics.csv"
PANELS = {
    "loss": "loss of MoCo v3",
    "probe": "balanced accuracy,\natypical mitoses",
    "cosine": "mean cosine",
    "rank": "effective rank (of 192)",
}


def main() -> None:
    """Loss, online probe and the two monitors of collapse, over crops seen."""
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    log = pd.read_csv(RUN)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9.5, 2.2), constrained_layout=True)
    for axis, (column, label) in zip(axes, PANELS.items(), strict=True):
        shown = log.dropna(subset=column)
        axis.plot(shown["images"] / 1000, shown[column], color="#0072b2", linewidth=1)
        axis.set(xlabel="thousand crops", ylabel=label)
    figure.savefig(HERE / "_static" / "training_run.png", dpi=130)


if __name__ == "__main__":
    main()
