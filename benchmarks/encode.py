"""From pixels to embeddings with a ViT-S/8 at 40 px: against timm, and against what the device multiplies.

    PYTHONPATH=src python benchmarks/encode.py [--device cuda] [--crops 4096] [--side 16384] [--repeat 7] [--json FILE]

It needs numpy, torch, timm and tqdm, nothing of scverse, and runs from a source tree that is not installed.

Encoding: compared in the same run, on the same crops, in turns; the best of `--repeat` turns counts for each:

(a) timm in float32: uint8 crops to floats, normalised, through the network;
(b) the same under bfloat16 autocast;
(c) ours in float32;
(d) ours in bfloat16;
(e) on a CUDA device, (d) with crops and vectors that stay there: as it is, replayed as a CUDA graph, and after
    `torch.compile` (seconds to compile are given: it is not part of the package).

The peak is the best rate at which torch multiplies large matrices in the same precision on the same threads, taken in
turns with the rest, of plain products and of oneDNN's packed ones. The share of it counts the multiply-accumulates that
are done: ours leaves out of the last block what no class token sees. Crops are noise, which costs as much as nuclei.

Whole way: an image of `--side` px at 0.2738 um per px that lies in memory, with 5,500 nuclei per mm2. Its blocks are
read (copied), sent to the device, cut there, encoded in bfloat16, and rows come back. Cutting is timed alone, too, and
against the compiled kernel of the CPU where numba is installed, whose crops must be the same. Decoding, which a file
would cost, is not part of it: `benchmarks/extract.py` measures that.

With one thread (OMP_NUM_THREADS=1), time is that of the processor, so that other processes on the machine count less;
else it is that of the clock on the wall.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import torch

import lemon_sc as lm
from lemon_sc.embed import embed_batches
from lemon_sc.embed.graphs import record
from lemon_sc.models.fast_vit import FastViT, can_pack

GEMMS = {"cpu": [(1024, 1024, 1024), (4096, 1024, 1024), (832, 384, 1536)], "cuda": [(8192, 8192, 8192)]}
"""Rows, sum and columns."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MPP, PER_MM2 = 0.2738, 5500
NEIGHBOURS = 20


def clock(device):
    """Seconds, once the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def timed(function, device):
    """Seconds of one call; of the mean of several if it is short."""
    calls, start = 0, clock(device)
    while not calls or clock(device) - start < 0.1:
        function()
        calls += 1
    return (clock(device) - start) / calls


def products(dtype, device):
    """Functions that multiply large matrices, with their FLOPs."""
    found, linear = [], torch.ops.mkldnn._linear_pointwise if device == "cpu" else None
    for m, k, n in GEMMS[device]:
        a, b = (torch.randn(shape, device=device).to(TYPES[dtype]) for shape in ((m, k), (n, k)))
        found.append((2 * m * k * n, lambda a=a, b=b: a @ b.T))
        if device == "cpu" and can_pack(TYPES[dtype]):
            packed = torch.ops.mkldnn._reorder_linear_weight(b, m)
            found.append((2 * m * k * n, lambda a=a, p=packed: linear(a, p, None, "none", [], "")))
    return found


def macs_done(module):
    """Multiply-accumulates of one crop: all, and those that the class token depends on."""
    tokens, dim = module.patch_embed.num_patches + 1, module.embed_dim
    whole = lm.models.macs(module, attention=True)
    last = sum(layer.weight.numel() for layer in module.blocks[-1].modules() if isinstance(layer, torch.nn.Linear))
    return whole, whole - (tokens - 1) * (last - 2 * dim**2) - 2 * (tokens - 1) * tokens * dim


def fast(encoder, device, dtype):
    card = encoder.card
    return FastViT(encoder.module, mean=card.mean, std=card.std, device=device, dtype=dtype)


def contestants(encoder, crops, device):
    """Name, precision and a function that embeds all crops."""
    ours = {d: fast(encoder, device, d) for d in TYPES}
    on_device = encoder.to(device)
    found = [
        ("(a) timm, fp32", "fp32", lambda: on_device.encode(crops)),
        ("(b) timm, bf16 autocast", "bf16", lambda: on_device.encode(crops, dtype="bf16")),
        ("(c) ours, fp32", "fp32", lambda: ours["fp32"].encode(crops)),
        ("(d) ours, bf16", "bf16", lambda: ours["bf16"].encode(crops)),
    ]
    if device == "cuda":
        there = torch.from_numpy(crops).to(device)
        found.append(("(e) ours, bf16, on device", "bf16", lambda: ours["bf16"](there)))
        found += [(name, "bf16", function) for name, function in accelerated(ours["bf16"], there)]
    return found


def accelerated(forward, there):
    """(name, function) of the pass as a CUDA graph and compiled, where that works here."""
    stream = torch.cuda.Stream()
    for name, make in (("graph", lambda: record(forward, there)), ("compiled", lambda: compiled(forward, there))):
        try:
            with torch.cuda.stream(stream):
                forward(there)
                torch.cuda.synchronize()
                start = time.perf_counter()
                function = make()
                function(there)
                torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one way, the others are measured
            print(f"(e) {name}: not possible here: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        print(f"(e) {name}: {time.perf_counter() - start:.1f} s to make")
        yield f"(e) ours, bf16, {name}", lambda function=function: function(there)


def compiled(forward, there):
    function = torch.compile(forward.__call__, dynamic=False)
    function(there)
    return function


def agreement(encoder, crops, device):
    """Least cosine of ours to timm's float32, and the share of nearest neighbours that stay."""
    exact = encoder.encode(crops)
    found = {}
    for dtype in TYPES:
        made = fast(encoder, device, dtype).encode(crops)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(made, axis=1)
        same = [len(np.intersect1d(*pair)) / NEIGHBOURS for pair in zip(nearest(exact), nearest(made), strict=True)]
        found[dtype] = {"cosine": float(((exact * made).sum(axis=1) / norms).min()), "neighbours": float(np.mean(same))}
    return found


def nearest(z):
    """The nearest vectors by cosine, (n, NEIGHBOURS)."""
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    return np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def encoding(encoder, n_crops, repeat, device):
    """Peak, rates and agreement, as a dict."""
    crops = np.random.default_rng(0).integers(0, 256, (n_crops, 40, 40, 3), dtype=np.uint8)
    with torch.inference_mode():
        runs = contestants(encoder, crops, device)
        multiply = {dtype: products(dtype, device) for dtype in TYPES}
        seconds = {name: np.inf for name, _, _ in runs}
        peak = dict.fromkeys(TYPES, 0.0)
        for _, _, function in runs:
            function()
        for _ in range(repeat):
            for name, _, function in runs:
                seconds[name] = min(seconds[name], timed(function, device))
            for dtype, functions in multiply.items():
                peak[dtype] = max(peak[dtype], *(flops / timed(function, device) for flops, function in functions))
    whole, needed = macs_done(encoder.module)
    rates = {
        name: {
            "nuclei_per_s": n_crops / seconds[name],
            "share_of_peak": 2 * (needed if "ours" in name else whole) * n_crops / seconds[name] / peak[dtype],
        }
        for name, dtype, _ in runs
    }
    some = crops[: min(n_crops, 256)]
    return {
        "peak": peak,
        "macs": whole,
        "macs_done": needed,
        "rates": rates,
        "agreement": agreement(encoder, some, device),
    }


def picture(side):
    """An image of noise in memory, and nuclei on it."""
    from lemon_sc.io.image import array_image

    rng = np.random.default_rng(0)
    pixels = np.frombuffer(rng.bytes(3 * side * side), np.uint8).reshape(side, side, 3)
    xy = rng.uniform(40, side - 40, (int(PER_MM2 * (side * MPP / 1000) ** 2), 2))
    return array_image(pixels), xy


def whole_way(encoder, side, repeat, device):
    """Nuclei per second: cut only, and from blocks to rows."""
    from lemon_sc.crops.on_device import DeviceCutter
    from lemon_sc.crops.uncut import stream_uncut

    image, xy = picture(side)
    batches = list(stream_uncut(image, xy, mpp=(MPP, MPP)))
    cutter = DeviceCutter(batches[0][1].cut, torch.device(device))

    def embed(batches):
        how = {"device": device, "dtype": "bf16", "progress": False}
        return embed_batches(batches, encoder, n=len(xy), **how)

    ways = {
        "upload and cut on the device": lambda: [cutter(windows) for _, windows in batches],
        "blocks to rows": lambda: embed(stream_uncut(image, xy, mpp=(MPP, MPP))),
    }
    found = {"nuclei": len(xy), "identical_to_cpu": None}
    if importlib.util.find_spec("numba"):
        from lemon_sc.crops.stream import stream_crops

        same = [
            np.array_equal(cutter(windows).cpu().numpy(), crops)
            for (_, windows), (_, crops) in zip(batches, stream_crops(image, xy, mpp=(MPP, MPP)), strict=True)
        ]
        found["identical_to_cpu"] = all(same)
        ways["read and cut on the CPU"] = lambda: list(stream_crops(image, xy, mpp=(MPP, MPP)))
        ways["the same to rows"] = lambda: embed(stream_crops(image, xy, mpp=(MPP, MPP)))
    with torch.inference_mode():
        best = {name: len(xy) / min(timed(function, device) for _ in range(repeat)) for name, function in ways.items()}
    return found | {"nuclei_per_s": best}


def report(found, n_crops, where):
    print(
        f"{n_crops} crops, {where}; G multiply-accumulates: timm {found['macs'] / 1e9:.3f}, ours "
        f"{found['macs_done'] / 1e9:.3f}"
    )
    print(", ".join(f"peak {dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in found["peak"].items()))
    print(f"{'':<32}{'nuclei/s':>10}{'to (a)':>9}{'to (b)':>9}{'of peak':>9}")
    first, second = (rate["nuclei_per_s"] for rate in list(found["rates"].values())[:2])
    for name, rate in found["rates"].items():
        speed = rate["nuclei_per_s"]
        print(f"{name:<32}{speed:>10,.0f}{speed / first:>8.2f}x{speed / second:>8.2f}x{rate['share_of_peak']:>9.1%}")
    for dtype, agrees in found["agreement"].items():
        print(
            f"{dtype}: least cosine to timm in fp32 {agrees['cosine']:.6f}, of the {NEIGHBOURS} nearest neighbours "
            f"{agrees['neighbours']:.1%} stay"
        )
    way = found["whole_way"]
    same = {None: "not compared (no numba)", True: "identical", False: "DIFFERENT"}[way["identical_to_cpu"]]
    print(f"{way['nuclei']:,} nuclei of one image; crops of device and CPU: {same}")
    for name, speed in way["nuclei_per_s"].items():
        print(f"{name:<32}{speed:>10,.0f} nuclei/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int)
    parser.add_argument("--side", type=int)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    n_crops = args.crops or {"cpu": 256, "cuda": 4096}[args.device]
    torch.manual_seed(0)
    module = lm.models.vit_s8_40().eval()
    encoder = lm.models.as_encoder(module, lm.models.ModelCard(name="vit", dim=384, input_px=40))
    found = encoding(encoder, n_crops, args.repeat, args.device)
    side = args.side or {"cpu": 2048, "cuda": 16384}[args.device]
    found["whole_way"] = whole_way(encoder, side, min(args.repeat, 3), args.device)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    report(found, n_crops, where)
    if args.json:
        args.json.write_text(
            json.dumps({"crops": n_crops, "device": where, "torch": torch.__version__, **found}, indent=1)
        )


if __name__ == "__main__":
    main()
