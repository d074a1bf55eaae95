"""Ways to train an encoder, compared at equal cost: the same seconds of one core, network, corpus and seed for each.

    LEMON_SC_DATA=... OMP_NUM_THREADS=1 python benchmarks/methods.py --corpus corpus.zarr --runs DIR [--seconds 300]

    moco_a0         MoCo v3 with the augmentations made for photographs
    moco_a1_gray    MoCo v3 with LEMON's, the recipe `cpu`
    dinov2_kde      DINOv2 without local views, with the kernel density term, at the sizes of `cpu`
    cpu_guided      the class token is to tell what can be measured in the crop
    moco_guided     `cpu` with guidance as a third view, weight 1

Each method makes some steps to say how long one takes, and then a whole run, warm-up and decay of the learning rate
included, of as many steps as fit. Time is that of the processor, so other processes on the machine count less. One
seed: small differences mean nothing. Then the probes of `encoders.py` on sets that nothing was trained on.

Results: benchmarks/results/train_methods.csv, a row per method, task and score; and the log of each run in
benchmarks/results/train_methods/.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from corpus import home
from encoders import TASKS, embedder, load, probe, read

from lemon_sc.analysis.splits import stratified
from lemon_sc.metrics.classification import METRICS
from lemon_sc.train import fit, open_corpus
from lemon_sc.train.build import augmentations
from lemon_sc.train.loader import batches
from lemon_sc.train.loop import make_step
from lemon_sc.train.recipes import changed, cpu, cpu_guided, dinov2_kde
from lemon_sc.train.state import begin

RESULTS = Path(__file__).parent / "results"
SMALL = {"encoder": "vit_ti8", "batch": 256, "options.hidden": 1024, "options.prototypes": 4096}
RECIPES = {
    "moco_a0": cpu(augmentation="a0"),
    "moco_a1_gray": cpu(),
    "dinov2_kde": dinov2_kde(**SMALL),
    "cpu_guided": cpu_guided(),
    "moco_guided": cpu(**{"options.guide": 1.0}),
}
EPOCHS, WARMUP = 10, 1
TRIED = 3
TASKS_SHOWN = ("amibr", "nucls", "consep")


def seconds_per_step(recipe, corpus):
    """Processor seconds of a step with all that belongs to it, after a first one."""
    device = torch.device("cpu")
    views, state = augmentations(recipe, corpus), begin(recipe, corpus, device)
    method = state.method.train()
    stream = batches(corpus, state.sampler, views, steps=range(TRIED + 1), device=device)
    with tempfile.TemporaryDirectory() as folder:
        for k, batch in enumerate(stream):
            if k == 1:
                start = time.process_time()
            make_step(state, method, batch.views(views, device), folder=Path(folder))
    return (time.process_time() - start) / TRIED


def fitted(recipe, corpus, seconds):
    """The recipe with as many steps as fit into so many seconds, in `EPOCHS` epochs."""
    steps = int(seconds / seconds_per_step(recipe, corpus)) // EPOCHS
    length = max(steps, 1) * recipe.batch
    return changed(recipe, {"epochs": EPOCHS, "warmup_epochs": WARMUP, "epoch_length": length})


def scores(run, method, seconds, tasks):
    """Rows of the results of a run."""
    encoder = embedder(read(run.out), "cpu")
    for name, (crops, labels) in tasks.items():
        folds = stratified(labels, rng=np.random.default_rng(0))
        found = probe(encoder(crops), labels, folds, n_pcs=None, pos_label=TASKS[name].pos_label)
        for m, metric in enumerate(METRICS):
            yield {
                "method": method,
                "seconds": round(seconds),
                "crops": run.recipe.steps * run.recipe.batch,
                "steps": run.recipe.steps,
                "seed": run.recipe.seed,
                "rank": run.metrics.get("rank"),
                "cosine": run.metrics.get("cosine"),
                "task": name,
                "metric": metric,
                "mean": found[:, m].mean(),
                "sd": found[:, m].std(ddof=1),
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--methods", nargs="*", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--seconds", type=float, default=300, help="of the processor, per method")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_methods.csv")
    args = parser.parse_args()
    corpus, tasks = open_corpus(args.corpus), {}
    for name in TASKS_SHOWN:
        crops, table, _ = load(home(), TASKS[name], 5000)
        tasks[name] = (crops, table["type"].to_numpy(str))
    logs = args.out.with_suffix("")
    logs.mkdir(parents=True, exist_ok=True)
    for name in args.methods:
        recipe = fitted(RECIPES[name], corpus, args.seconds)
        start = time.process_time()
        run = fit(recipe, corpus=corpus, out=args.runs / name, log_steps=max(recipe.steps // 100, 1))
        taken = time.process_time() - start
        shutil.copy(run.out / "metrics.csv", logs / f"{name}.csv")
        rows = pd.DataFrame(scores(run, name, taken, tasks))
        if args.out.is_file():
            old = pd.read_csv(args.out)
            rows = pd.concat([old[old["method"] != name], rows], ignore_index=True)
        rows.to_csv(args.out, index=False, float_format="%.4f")
        shown = rows[(rows["method"] == name) & rows["metric"].isin(["auc", "balanced_accuracy"])]
        print(f"{name}: {recipe.steps} steps of {recipe.batch}, {taken:.0f} s of the processor")
        print(shown.pivot_table(index="task", columns="metric", values="mean").round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
