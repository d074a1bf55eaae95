"""A training step against what the device multiplies, with the data path on and off, and what the paper's run takes.

    python benchmarks/train.py [--recipe lemon] [--batch 64] [--steps 4] [--repeat 3] [--device cpu] [--json FILE]

Compared in the same run, in turns; the best of `--repeat` turns of `--steps` steps counts for each:

(a) steps on views that are there already: forward, backward, optimiser, teacher;
(b) the same, and the views made on the device from crops that are there already;
(c) the whole loop: threads read scattered crops of a memory-mapped corpus ahead of the step and draw what happens to
    them; they are sent to the device, augmented there, and the step is made;
(d) those threads alone, without a step;
(e) on the CPU, forward and backward of (a) with timm's attention in the place of ours.

The loader is no limit where (d) is several times (c), and where (c) is nearly (b). Utilisation is the rate of the
matrix products and convolutions of a step, counted, over the best rate at which torch multiplies large matrices in the
same precision. With `--recipe lemon` a last table is arithmetic: crops of the paper's run over the rate of (c) on this
machine; and its operations over a share of the rate at which accelerators multiply, on one of them and on several, were
the rate to grow with their number, which DistributedDataParallel does not quite reach.

With one thread (OMP_NUM_THREADS=1), time is that of the processor, so that other processes on the machine count less;
else it is that of the clock on the wall.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timm.layers.attention import Attention

from lemon_sc.train.attention import ShortAttention
from lemon_sc.train.build import augmentations
from lemon_sc.train.corpus_reader import Corpus
from lemon_sc.train.loader import batches
from lemon_sc.train.loop import make_step
from lemon_sc.train.recipes import RECIPES, lemon
from lemon_sc.train.state import begin
from lemon_sc.train.utilisation import flops_per_crop, peak_flops
from lemon_sc.train.watch import precision

CROPS = 100_000
ACCELERATORS = {"H100 or H200": 790e12, "A100": 312e12, "T4": 65e12}
"""FLOP/s in 16 bits: for the first what was measured with large matrices, for the others what their makers say."""
SHARE = 0.4


def mapped_corpus(folder, n):
    """Noise, which costs as much as nuclei, on disk: read as a corpus of plain pixels is."""
    path = Path(folder) / "crops.npy"
    crops = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 60, 60, 3))
    block = np.random.default_rng(0).integers(0, 256, (4096, 60, 60, 3), dtype=np.uint8)
    for start in range(0, n, len(block)):
        crops[start : start + len(block)] = block[: n - start]
    crops.flush()
    slide = np.zeros(n, dtype=np.int32)
    return Corpus(crops=np.load(path, mmap_mode="r"), slide=slide, manifest={"slides": [{"name": "noise"}]})


def with_timms_attention(method):
    """A copy of a method in which the blocks attend as timm's do."""
    twin = copy.deepcopy(method)
    for block in twin.modules():
        ours = getattr(block, "attn", None)
        if isinstance(ours, ShortAttention):
            theirs = Attention(ours.qkv.in_features, num_heads=ours.heads, qkv_bias=True)
            theirs.qkv, theirs.proj = ours.qkv, ours.proj
            block.attn = theirs
    return twin


class Bench:
    """A run that is never finished, and ways to make some steps of it."""

    def __init__(self, recipe, device, corpus):
        self.recipe, self.device, self.corpus = recipe, torch.device(device), corpus
        self.augmentations = augmentations(recipe, corpus)
        self.state = begin(recipe, corpus, self.device)
        self.method = self.state.method.train()
        self.batch = next(self.stream())
        self.there = self.batch.crops.to(self.device)
        self.views = self.batch.views(self.augmentations, self.device)

    def stream(self):
        steps = range(self.recipe.steps)
        return batches(self.corpus, self.state.sampler, self.augmentations, steps=steps, device=self.device)

    def step(self, views, network=None):
        make_step(self.state, network or self.method, views, folder=Path())

    def alone(self, steps):
        for _ in range(steps):
            self.step(self.views)

    def augmented(self, steps):
        for _ in range(steps):
            self.step(type(self.batch)(step=0, crops=self.there, draws=self.batch.draws).views(
                self.augmentations, self.device))  # fmt: skip

    def whole(self, steps):
        stream = self.stream()
        for _ in range(steps):
            self.step(next(stream).views(self.augmentations, self.device))
        stream.close()

    def loader(self, steps):
        stream = self.stream()
        for _ in range(steps):
            next(stream)
        stream.close()

    def timm(self, steps):
        twin = with_timms_attention(self.method)
        for _ in range(steps):
            with precision(self.recipe, self.device):
                loss, _ = twin(self.views, self.state.progress)
            loss.backward()
            twin.zero_grad(set_to_none=True)


def clock(device):
    """Seconds, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def seconds(function, device, steps):
    """Seconds of a call."""
    start = clock(device)
    function(steps)
    return clock(device) - start


def measure(recipe, device, *, steps, repeat):
    """Crops per second of each way, and the peak."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(recipe, device, mapped_corpus(folder, max(CROPS, recipe.batch)))
        ways = {"(a) step alone": bench.alone, "(b) and views": bench.augmented, "(c) whole loop": bench.whole,
                "(d) loader alone": bench.loader}  # fmt: skip
        if bench.device.type == "cpu":
            ways["(e) timm's attention"] = bench.timm
        dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        flops = flops_per_crop(bench.method, bench.augmentations, device=bench.device)
        bench.whole(1)
        best, peak = dict.fromkeys(ways, np.inf), 0.0
        for _ in range(repeat):
            for name, way in ways.items():
                best[name] = min(best[name], seconds(way, bench.device, steps))
            peak = max(peak, peak_flops(bench.device, dtype=dtype))
    rates = {name: steps * recipe.batch / s for name, s in best.items()}
    return {"rates": rates, "peak": peak, "flops_per_crop": flops}


def span(seconds):
    """Seconds in words."""
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def show_papers_run(rate, flops, where):
    """Print how long the paper's run would take."""
    paper = lemon()
    crops = paper.steps * paper.batch
    print(f"\nThe paper's run: {paper.steps:,} steps of {paper.batch:,} = {crops / 1e6:.1f} million crops, ", end="")
    print(f"x {flops / 1e9:.2f} GFLOP = {crops * flops:.3g} FLOP")
    print(f"  {where}, at the rate of (c), {rate:,.1f} crops/s: {span(crops / rate)}")
    for name, peak in ACCELERATORS.items():
        for n in (1, 8):
            taken = crops * flops / (n * SHARE * peak)
            print(
                f"  {n} x {name}, {SHARE:.0%} of {peak / 1e12:.0f} TFLOP/s: {crops / taken:,.0f} crops/s, {span(taken)}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="lemon")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = RECIPES[args.recipe]()
    batch = args.batch or (recipe.batch if args.device == "cuda" else min(recipe.batch, 64))
    recipe = RECIPES[args.recipe](batch=batch)
    found = measure(recipe, args.device, steps=args.steps, repeat=args.repeat)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    cost = f"{found['flops_per_crop'] / 1e9:.2f} GFLOP per crop, peak {found['peak'] / 1e12:.2f} TFLOP/s"
    print(f"{args.recipe}, batch {batch}, {recipe.precision}, {where}; {cost}")
    first = found["rates"]["(a) step alone"]
    print(f"{'':<32}{'crops/s':>12}{'to (a)':>9}{'of peak':>9}")
    for name, rate in found["rates"].items():
        share = "" if "loader" in name else f"{rate * found['flops_per_crop'] / found['peak']:.1%}"
        print(f"{name:<32}{rate:>12,.0f}{rate / first:>8.2f}x{share:>9}")
    if args.recipe == "lemon":
        show_papers_run(found["rates"]["(c) whole loop"], found["flops_per_crop"], where)
    if args.json:
        args.json.write_text(json.dumps({"recipe": recipe.to_dict(), "device": where, **found}, indent=1))


if __name__ == "__main__":
    main()
