"""What expression-guided finetuning costs, and what it brings on spots of two breast cancers.

    python benchmarks/seal.py cost [--encoder vit_s8 | FILE] [--batch 64]
    python benchmarks/seal.py epoch [--weights FILE] [--batch 384] [--nuclei 10000 50000 200000]
    LEMON_SC_DATA=... python benchmarks/seal.py her2st [--weights FILE] [--view patch | windows]

`cost`: a step of SEAL against a step in which the whole encoder learns, and against encoding alone, each in a process
of its own: processor seconds, and memory beyond that of the process with the encoder in it. Parameters that learn, and
the size of the adapter's file.

`epoch`: nuclei of a slide, by their number, on a panel of 300 genes: memory beyond that of the process with the encoder
in it, crops and counts included, after some steps; and processor time of an epoch, from those steps, with what comes
before the first of them. As dense as tumour: a nucleus per 100 um2, so that crops of 10 um overlap.

`her2st`: sections of HER2ST (Andersson et al. 2021) of the patients B (B4) and C (C2, C3, C5). SEAL learns from the
sections of one patient; then a ridge regression on the same sections tells the 50 genes of highest mean rank from the
embedding, and is tested on the other patient, section by section, both ways. The same with the encoder as it was, and
with an encoder that SEAL adapted to expression shuffled within sections. Intervals: 95 %, over genes, which are not
independent of each other and are all of two patients: they say how alike the genes are, not how alike patients are.
`--view patch` cuts 112 um around each spot, resampled to the side of the encoder's crops; `windows` cuts 2 x 2 windows
of the encoder's own pixel size in it, and averages. One core: ten minutes.

Results: benchmarks/results/seal_her2st_<view>_<encoder>_<learning rate>.csv, a row per section, gene and embedding.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.spatial import cKDTree

import lemon_sc as lm
from lemon_sc.analysis.panel import mean_by_group, top_genes
from lemon_sc.analysis.probe import ridge_probe
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.bench.sets.her2st import HER2ST_MPP, SECTIONS, SPOT_UM, read_her2st, windows
from lemon_sc.crops.stream import stream_crops
from lemon_sc.models.gene_panel import clean_genes, log_normalised
from lemon_sc.models.lora import adapted_layers
from lemon_sc.models.vit import cell_vit
from lemon_sc.train import Pairs, seal, seal_published, seal_small
from lemon_sc.train.recipes import ENCODERS
from lemon_sc.train.seal_batches import policy_of, seal_batches
from lemon_sc.train.seal_data import prepare_pairs
from lemon_sc.train.seal_network import build_seal
from lemon_sc.train.seal_state import SealState, seal_step

RESULTS = Path(__file__).parent / "results"
PATCH_UM = 112.0
N_GENES, N_DRAWN = 50, 3
UM2_OF_NUCLEUS, N_STEPS = 100.0, 6


def encoder_of(name):
    """An encoder with initial weights by the name of its size, or one from a file."""
    if name not in ENCODERS:
        return lm.models.load(name)
    card = lm.models.ModelCard(name=f"{name}_random", dim=ENCODERS[name]["dim"], mean=(0.5,) * 3, std=(0.2,) * 3)
    return lm.models.as_encoder((cell_vit(**ENCODERS[name]), card))


def drawn_pairs(encoder, n):
    """Crops and counts of noise, as many genes as the published panel has."""
    rng = np.random.default_rng(0)
    side = encoder.card.input_px
    genes = [f"G{k}" for k in range(2000)]
    crops = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    return Pairs(crops=crops, counts=rng.poisson(1.0, (n, 2000)), genes=genes, slide="s")


def measured(kind, name, batch):
    """Processor seconds of a step, and how much memory it takes at most, MB; called in a process of its own."""
    torch.set_num_threads(1)
    encoder = encoder_of(name)
    recipe = seal_published(batch=batch, omics_epochs=0, epochs=10, epoch_length=batch, augmentation="none")
    data = prepare_pairs([drawn_pairs(encoder, batch)], n_genes=recipe.n_genes, smoothed=False)
    network = build_seal(encoder, data.panel, recipe)
    if kind == "full":
        network.encoder.requires_grad_(requires_grad=True)
    learning = [p for p in network.parameters() if p.requires_grad]
    policy = policy_of(recipe, encoder.card)
    state = SealState(recipe=recipe, network=network, policy=policy, optimizer=torch.optim.AdamW(learning))
    batches = list(seal_batches(data, recipe, policy, steps=range(1 + N_DRAWN)))
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for one in batches:
        start = time.process_time()
        if kind == "encode":
            with torch.inference_mode():
                network.encoder(one.views(policy, torch.device("cpu")))
        else:
            seal_step(state, one, device=torch.device("cpu"), folder=Path())
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return min(seconds[1:]), (peak - before) / 1024


def cost(name, batch):
    encoder = encoder_of(name)
    shapes = [encoder.module.get_submodule(n).weight.shape for n in adapted_layers(encoder.module, blocks=1)]
    adapters, whole = sum(8 * sum(s) for s in shapes), sum(p.numel() for p in encoder.module.parameters())
    print(f"{encoder.card.name}: {len(shapes)} adapters, {adapters:,} parameters of {whole:,} ({adapters / whole:.2%})")
    print(f"adapter's file: {adapters * 4 / 1e6:.2f} MB")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = {kind: pool.apply(measured, (kind, name, batch)) for kind in ("encode", "seal", "full")}
    for kind, (seconds, memory) in found.items():
        ratio = [seconds / found[other][0] for other in ("encode", "full")]
        rate = batch / seconds
        print(
            f"{kind:7s} {seconds:6.2f} s per {batch} crops ({rate:5.0f} crops/s); {ratio[0]:.2f} x encoding, "
            f"{ratio[1]:.2f} x full; {memory:6.0f} MB more memory"
        )


def slide_pairs(encoder, n):
    """Nuclei of a slide: crops of noise, sparse counts of a panel, centres at random."""
    rng = np.random.default_rng(0)
    side, extent_um, there = encoder.card.input_px, np.sqrt(n * UM2_OF_NUCLEUS), 60
    at = rng.integers(0, 300, n * there, dtype=np.int32)
    counts = sparse.csr_matrix((np.ones(n * there, np.float32), at, np.arange(n + 1) * there), shape=(n, 300))
    counts.sum_duplicates()
    return Pairs(
        crops=rng.integers(0, 256, (n, side, side, 3), np.uint8),
        counts=counts,
        genes=[f"G{k}" for k in range(300)],
        slide="s",
        xy_um=rng.uniform(0, extent_um, (n, 2)),
        touching_um=side * encoder.card.mpp,
    )


def epoch_of(name, batch, n):
    """Processor seconds before the first step and of an epoch, and memory, MB; called in a process of its own."""
    torch.set_num_threads(1)
    encoder = encoder_of(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = slide_pairs(encoder, n)
    recipe = seal_published(batch=batch, omics_epochs=0, epochs=1, epoch_length=batch * (n // batch))
    start = time.process_time()
    data = prepare_pairs([pairs], n_genes=recipe.n_genes, smoothed=False)
    prepared = time.process_time() - start
    network, policy = build_seal(encoder, data.panel, recipe), policy_of(recipe, encoder.card)
    learning = [p for p in network.parameters() if p.requires_grad]
    state = SealState(recipe=recipe, network=network, policy=policy, optimizer=torch.optim.AdamW(learning))
    start = time.process_time()  # with what threads do to make the batches
    for one in seal_batches(data, recipe, policy, steps=range(N_STEPS)):
        seal_step(state, one, device=torch.device("cpu"), folder=Path())
    step = (time.process_time() - start) / N_STEPS
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "prepared": prepared,
        "epoch": step * (n // batch),
        "mb": memory,
        "crops": pairs.crops.nbytes / 2**20,
    }


def epoch(name, batch, numbers):
    for n in numbers:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            found = pool.apply(epoch_of, (name, batch, n))
        seconds, rate = found["epoch"], n / found["epoch"]
        print(
            f"{n:9,} nuclei: {found['mb']:6.0f} MB ({found['crops']:.0f} MB of them crops), an epoch {seconds:6.0f} s, "
            f"{rate:.0f} crops/s; panel and neighbours beforehand {found['prepared'] / seconds:.1%} of it",
            flush=True,
        )


def spots(card, view, folder, *, along):
    """Pairs of all spots: a patch, or windows, of each; with its place on the lattice."""
    found = read_her2st(folder)
    table = found.nuclei.groupby("item", sort=True).agg({"x": "mean", "y": "mean", "slide": "first"})
    side, n = card.input_px, 1 if view == "patch" else along**2
    mpp = PATCH_UM / side if view == "patch" else card.mpp
    crops = np.zeros((len(table) * n, side, side, 3), np.uint8)
    array = np.zeros((len(table), 2), np.int64)
    for section in SECTIONS:
        rows = np.flatnonzero(table["slide"] == section)
        centre = table[["x", "y"]].to_numpy()[rows]
        inside = windows(centre, side_px=SPOT_UM / np.sqrt(2) / HER2ST_MPP, n=along).reshape(-1, 2)
        at = centre if view == "patch" else inside
        place = (rows[:, None] * n + np.arange(n)).ravel()
        for index, cut in stream_crops(found.open(section), at, mpp=found.mpp[section], size_px=side, target_mpp=mpp):
            crops[place[index]] = cut
        grid = pd.read_csv(folder / "her2st" / section / "selection.tsv", sep="\t")
        nearest = cKDTree(grid[["pixel_x", "pixel_y"]].to_numpy()).query(centre)[1]
        array[rows] = grid[["y", "x"]].to_numpy()[nearest].round().astype(np.int64)
    slide = np.repeat(table["slide"].to_numpy(str), n)
    return Pairs(
        crops=crops, counts=found.expression[np.repeat(np.arange(len(table)), n)], genes=found.genes, slide=slide,
        patient=np.array([s[0] for s in slide]), unit=np.repeat(np.arange(len(table)), n), lattice="square",
        array=np.repeat(array, n, axis=0), name="her2st", licence="CC BY 4.0",
    )  # fmt: skip


def embedded(encoder, pairs, n):
    return lm.models.encode(pairs.crops, encoder, device="cpu").reshape(-1, n, encoder.card.dim).mean(axis=1)


def probed(x, y, slide, patient, names):
    """PCC by section and gene: ridge on the other patient's sections."""
    folds = leave_one_group_out(slide, patient)
    made = ridge_probe(x, y, folds, rng=np.random.default_rng(0), n_null=0)
    return pd.DataFrame(made.pcc, index=list(folds.names), columns=names)


def her2st(args):
    torch.set_num_threads(1)
    encoder, folder = encoder_of(args.weights or args.encoder), Path(os.environ["LEMON_SC_DATA"])
    n = 1 if args.view == "patch" else args.along**2
    pairs = spots(encoder.card, args.view, folder, along=args.along)
    counts, names = clean_genes(pairs.counts[::n], pairs.genes)
    slide, patient = (np.asarray(v)[::n] for v in (pairs.slide, pairs.patient))
    values = log_normalised(counts).toarray()
    codes = np.unique(slide, return_inverse=True)[1]
    genes = top_genes(mean_by_group(values, codes, len(SECTIONS)), names, n=N_GENES)
    y = values[:, [names.index(g) for g in genes]]
    print(f"{len(slide)} spots, {len(names)} genes, {encoder.card.name}, {args.view}", flush=True)
    recipe = seal_small(batch=64, epochs=args.epochs, omics_epochs=args.epochs, blocks=args.blocks, lr=args.lr)
    tables = {"before": probed(embedded(encoder, pairs, n), y, slide, patient, genes)}
    for held in sorted(set(patient)):
        learned = pairs.hold_out(held)[0]
        for kind, data in (("after", learned), ("shuffled", learned.shuffled(rng=0))):
            start = time.process_time()
            with tempfile.TemporaryDirectory() as out:
                run = seal(recipe, data=data, model=encoder, out=out, device="cpu", log_steps=50)
                adapted = lm.models.with_adapter(encoder, run.adapter)
            table = probed(embedded(adapted, pairs, n), y, slide, patient, genes)
            mine = [s for s in table.index if s[0] == held]
            tables[kind] = pd.concat([tables.get(kind, table[:0]), table.loc[mine]])
            print(f"{kind}, tested on {held}: {time.process_time() - start:.0f} s, {run.metrics}", flush=True)
    report(tables)
    long = pd.concat({k: t.rename_axis("section").melt(ignore_index=False, var_name="gene", value_name="pcc")
                      for k, t in tables.items()}, names=["embedding"])  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    long.reset_index().round(4).to_csv(
        RESULTS / f"seal_her2st_{args.view}_{encoder.card.name}_{args.lr:g}.csv", index=False
    )


def report(tables):
    print("PCC, mean over 50 genes [95 % interval over genes]")
    for rows, what in ((["B4"], "learned from C, tested on B"), (["C2", "C3", "C5"], "learned from B, tested on C")):
        scores = {kind: t.loc[rows].mean(axis=0).to_numpy() for kind, t in tables.items()}
        scores |= {f"{kind} - before": scores[kind] - scores["before"] for kind in ("after", "shuffled")}
        for kind, score in scores.items():
            made = lm.metrics.bootstrap(score[np.isfinite(score)])
            print(f"{what}: {kind:17s} {made.value:+.3f} [{made.low:+.3f}, {made.high:+.3f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=["cost", "epoch", "her2st"])
    parser.add_argument("--encoder", default="vit_s8", help="size of an encoder with initial weights, or a file")
    parser.add_argument("--weights", help="weight file of an encoder")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--nuclei", type=int, nargs="+", default=[10_000, 50_000, 200_000])
    parser.add_argument("--view", choices=["patch", "windows"], default="patch")
    parser.add_argument("--along", type=int, default=2, help="windows along each side of a spot")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--blocks", type=int, default=1)
    options = parser.parse_args()
    if options.mode == "cost":
        cost(options.weights or options.encoder, options.batch)
    elif options.mode == "epoch":
        epoch(options.weights or options.encoder, options.batch, options.nuclei)
    else:
        her2st(options)
