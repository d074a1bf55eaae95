"""The ``lemon-sc`` command: demo, run, embed, train, bench, segment, doctor."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import lemon_sc
from lemon_sc import segment as segment_command
from lemon_sc.bench import command as bench_command
from lemon_sc.train.command import add_arguments, train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed import Client
    from spatialdata import SpatialData

PACKAGES = (
    "anndata", "dask", "esda", "geopandas", "imagecodecs", "libpysal", "matplotlib", "numpy", "pandas", "scanpy",
    "scikit-image", "scikit-learn", "scipy", "shapely", "spatialdata", "spatialdata-io", "tifffile", "timm", "torch",
    "zarr",
)  # fmt: skip
STORE = "annotated.zarr"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="lemon-sc", description="Nuclear morphology as a modality of scverse.")
    top.add_argument("--version", action="version", version=lemon_sc.__version__)
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="the whole line on the built-in phantom, with pictures")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the page and the pictures")
    demo.add_argument("--cells", type=int, default=2000, help="cells of the phantom")
    demo.add_argument("--seed", type=int, default=0)

    run = commands.add_parser("run", help="the whole line on a Xenium folder or a SpatialData store")
    run.add_argument("data", type=Path, help="Xenium output folder, or SpatialData zarr store")
    run.add_argument("--out", type=Path, required=True, help="folder for the annotated store, the page, the pictures")
    run.add_argument("--image", type=Path, help="H&E to add (OME-TIFF or OME-Zarr), if the data do not hold it yet")
    run.add_argument("--alignment", type=Path, help="Xenium Explorer's 3 x 3 alignment matrix of that image (CSV)")
    run.add_argument("--image-key", default="he_image")
    run.add_argument("--shapes-key", default="nucleus_boundaries")
    run.add_argument("--table-key", default="table")
    run.add_argument("--model", help="name of a model or path of a checkpoint; without it, guided_ti8")
    run.add_argument("--overwrite", action="store_true", help="replace an annotated store of an earlier run")

    embed = commands.add_parser("embed", help="embed the nuclei of many SpatialData stores, here or on a Dask cluster")
    embed.add_argument("slides", type=Path, nargs="+", help="SpatialData zarr stores; their tables are written back")
    embed.add_argument("--model", help="name of a model or path of a checkpoint; without it, guided_ti8")
    embed.add_argument("--key-added", default="X_lemon", help="name of the embedding in the table")
    embed.add_argument("--image-key", default="he_image")
    embed.add_argument("--shapes-key", default="nucleus_boundaries")
    embed.add_argument("--table-key", default="table")
    embed.add_argument("--mask", choices=["nucleus", "ring"], help="white out the surroundings, or the nucleus")
    embed.add_argument("--device", default="auto")
    embed.add_argument("--store", type=Path, help="folder that keeps embeddings as they come, to go on after a crash")
    embed.add_argument("--scheduler", help="address of a Dask scheduler, such as host:8786")

    add_arguments(commands.add_parser("train", help="train an encoder on a corpus of crops"))
    bench_command.add_arguments(commands.add_parser("bench", help="measure encoders on labelled sets of nuclei"))
    segment_command.add_arguments(commands.add_parser("segment", help="find the nuclei of an H&E slide"))
    commands.add_parser("doctor", help="what is installed, which device, which weights, what is missing")
    return top


def demo(out: Path, *, cells: int, seed: int) -> None:
    """Run the main line on the phantom and hold it against the truth."""
    from lemon_sc import datasets
    from lemon_sc.report import Page, analyse, illustrate
    from lemon_sc.truth import against_truth, planted_genes

    out.mkdir(parents=True, exist_ok=True)
    sdata = datasets.phantom(n_cells=cells, rng=seed)
    adata = analyse(sdata, target=planted_genes(sdata["table"]))
    page = Page(
        out=out,
        title="lemon_sc on the phantom",
        lead=f"A synthetic Xenium run of {cells} cells with an H&E that is rotated, mirrored, sheared and scaled "
        "against it. Everything about it is known, so everything below can be checked.",
    )
    page.text("Found and true", "What the line recovered, beside what was planted.")
    page.table(against_truth(adata))
    illustrate(page, sdata, by="truth_type")
    print(f"Open {page.write()}")


def read(data: Path) -> SpatialData:
    """Read a Xenium folder or a SpatialData store."""
    import spatialdata as sd

    if (data / "experiment.xenium").is_file():
        from spatialdata_io import xenium

        return xenium(data)
    if (data / "zarr.json").is_file() or (data / ".zgroup").is_file():
        return sd.read_zarr(data)
    what = "does not exist" if not data.exists() else "holds neither 'experiment.xenium' nor a SpatialData zarr store"
    msg = f"'{data}' {what}. Pass the Xenium output folder ('outs') or a store written by SpatialData."
    raise FileNotFoundError(msg)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace an earlier result unless asked to."""
    if (out / STORE).exists() and not overwrite:
        msg = f"'{out / STORE}' exists already. Pass --overwrite to replace it, or another --out."
        raise FileExistsError(msg)


def write_annotated(sdata: SpatialData, out: Path) -> Path:
    """Write the annotated store beside the older one, if any, and only then take its place."""
    from lemon_sc.io.durable import swap

    part = out / f"{STORE}.part-{os.getpid()}"
    try:
        sdata.write(part)
        swap(part, out / STORE)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return out / STORE


def run(args: argparse.Namespace) -> None:
    """Run the main line on the user's own data."""
    from lemon_sc import pp
    from lemon_sc._core.errors import missing_key
    from lemon_sc.report import CLUSTERS, Page, analyse, illustrate

    check_output(args.out, overwrite=args.overwrite)
    sdata = read(args.data)
    if args.image is not None:
        pp.add_image(sdata, args.image, alignment=args.alignment, key_added=args.image_key)
    elif args.image_key not in sdata.images:
        raise missing_key(
            args.image_key, where="sdata.images", have=sdata.images, fix="Add the H&E with --image and --alignment."
        )
    args.out.mkdir(parents=True, exist_ok=True)
    elements = {"image_key": args.image_key, "shapes_key": args.shapes_key}
    adata = analyse(sdata, table_key=args.table_key, model=args.model, **elements)
    page = Page(
        out=args.out,
        title=f"Nuclear morphology of {args.data.resolve().name}",
        lead=f"{adata.n_obs} cells, {adata.n_vars} genes; the annotated SpatialData lies in {STORE}.",
    )
    illustrate(page, sdata, table_key=args.table_key, by=CLUSTERS, **elements)
    print(f"Wrote {write_annotated(sdata, args.out)}")
    print(f"Open {page.write()}")


def embed(args: argparse.Namespace) -> None:
    """Embed SpatialData stores on disk."""
    from contextlib import nullcontext

    from lemon_sc._core.table import check_key
    from lemon_sc.batch import embed_stores

    check_key(args.key_added, parameter="--key-added")
    for slide in args.slides:
        if not slide.is_dir():
            msg = f"'{slide}' does not exist, or is no folder. Pass stores that SpatialData has written."
            raise FileNotFoundError(msg)
    with connected(args.scheduler) if args.scheduler else nullcontext():
        embed_stores(
            args.slides,
            key_added=args.key_added,
            table_key=args.table_key,
            extraction={"image_key": args.image_key, "shapes_key": args.shapes_key},
            store=args.store,
            model=args.model,
            mask=args.mask,
            device=args.device,
            batch_size="auto",
            dtype="auto",
        )


def bench(args: argparse.Namespace) -> None:
    """Measure encoders, and print what came out."""
    from contextlib import nullcontext

    with connected(args.scheduler) if args.scheduler else nullcontext():
        for line in bench_command.bench(args):
            print(line)


def connected(address: str) -> Client:
    """A client of a Dask scheduler."""
    from distributed import Client

    try:
        return Client(address, timeout="30s")
    except OSError as error:
        msg = f"No Dask scheduler answers at {address!r} ({error}). Start one with `dask scheduler`."
        raise ConnectionError(msg) from error


def doctor() -> int:
    """Print what is there and what is missing; 1 if a package that is needed is missing."""
    print(f"lemon_sc {lemon_sc.__version__}, Python {platform.python_version()}, {platform.platform()}")
    missing = []
    for package in PACKAGES:
        try:
            print(f"  {package:<15} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
            print(f"  {package:<15} MISSING: pip install {package}")
    print_devices()
    print_models()
    return 1 if missing else 0


def print_devices() -> None:
    """Which devices an embedding would run on."""
    import torch

    print(f"Device: {os.cpu_count()} CPU cores, {torch.get_num_threads()} used by torch")
    for i in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory / 2**30
        print(f"  cuda:{i} {name}, {memory:.0f} GiB, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    if torch.backends.mps.is_available():
        print("  mps")
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        print("  no GPU visible to torch: embedding runs on the CPU")


def print_models() -> None:
    """Which models are ready, and what the others need."""
    from lemon_sc import models

    print("Models:")
    for card in models.available():
        print(f"  {card.name:<15} {models.status(card.name)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``lemon-sc``.

    Parameters
    ----------
    argv
        Arguments without the program's name; None takes the command line's.

    Returns
    -------
    Exit status: 0, or 1 after an error that was printed.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lemon_sc").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", message="zarr v3 autosharding")  # said once per array that spatialdata writes
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        if args.command == "demo":
            demo(args.out, cells=args.cells, seed=args.seed)
        elif args.command == "run":
            run(args)
        elif args.command == "embed":
            embed(args)
        elif args.command == "train":
            train(args)
        elif args.command == "bench":
            bench(args)
        elif args.command == "segment":
            print(segment_command.segment(args))
        else:
            return doctor()
    except KeyboardInterrupt:
        print("lemon-sc: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, ExceptionGroup) as error:
        if args.traceback:
            raise
        print(f"lemon-sc: {error}", file=sys.stderr)
        return 1
    return 0
