"""Embedding with a ViT-S/8 at 40 px: ours against timm's own forward pass, and against what the device multiplies.

    python benchmarks/encode.py [--crops 256] [--repeat 7] [--device cpu] [--json FILE]

Compared in the same run, on the same crops, in turns; the best of `--repeat` turns counts for each:

(a) timm in float32: uint8 crops to floats, normalised, through the network;
(b) the same under bfloat16 autocast;
(c) ours in float32;
(d) ours in bfloat16;
(e) on a CUDA device, (d) with the crops there already, as it is and after `torch.compile`.

The peak is the best rate at which torch multiplies large matrices in the same precision on the same threads, taken in
turns with the rest, of plain products and of oneDNN's packed ones. The share of it counts the multiply-accumulates that
are done: ours leaves out of the last block what no class token sees. Crops are noise, which costs as much as nuclei.

With one thread (OMP_NUM_THREADS=1), time is that of the processor, so that other processes on the machine count less;
else it is that of the clock on the wall.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import lemon_sc as lm
from lemon_sc.models.fast_vit import FastViT, can_pack

GEMMS = {"cpu": [(1024, 1024, 1024), (4096, 1024, 1024), (832, 384, 1536)], "cuda": [(8192, 8192, 8192)]}
"""Rows, sum and columns."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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


def contestants(encoder, crops, device):
    """Name, precision and a function that embeds all crops."""
    card = encoder.card
    ours = {d: FastViT(encoder.module, mean=card.mean, std=card.std, device=device, dtype=d) for d in TYPES}
    on_device = encoder.to(device)
    found = [
        ("(a) timm, fp32", "fp32", lambda: on_device.encode(crops)),
        ("(b) timm, bf16 autocast", "bf16", lambda: on_device.encode(crops, dtype="bf16")),
        ("(c) ours, fp32", "fp32", lambda: ours["fp32"].encode(crops)),
        ("(d) ours, bf16", "bf16", lambda: ours["bf16"].encode(crops)),
    ]
    if device == "cuda":
        there = torch.from_numpy(crops).to(device)
        compiled = torch.compile(ours["bf16"].__call__, dynamic=False)
        found.append(("(e) ours, bf16, on device", "bf16", lambda: ours["bf16"](there)))
        found.append(("(e) ours, bf16, compiled", "bf16", lambda: compiled(there)))
    return found


def agreement(encoder, crops, device):
    """Least cosine of ours to timm's float32."""
    exact, card = encoder.encode(crops), encoder.card
    found = {}
    for dtype in TYPES:
        made = FastViT(encoder.module, mean=card.mean, std=card.std, device=device, dtype=dtype).encode(crops)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(made, axis=1)
        found[dtype] = float(((exact * made).sum(axis=1) / norms).min())
    return found


def measure(n_crops, repeat, device):
    """All figures, as a dict."""
    torch.manual_seed(0)
    module = lm.models.vit_s8_40().eval()
    encoder = lm.models.as_encoder(module, lm.models.ModelCard(name="vit", dim=384, input_px=40))
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
    whole, needed = macs_done(module)
    rates = {
        name: {
            "nuclei_per_s": n_crops / seconds[name],
            "share_of_peak": 2 * (needed if "ours" in name else whole) * n_crops / seconds[name] / peak[dtype],
        }
        for name, dtype, _ in runs
    }
    return {
        "peak": peak,
        "macs": whole,
        "macs_done": needed,
        "rates": rates,
        "cosine": agreement(encoder, crops[:64], device),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    n_crops = args.crops or {"cpu": 256, "cuda": 4096}[args.device]
    found = measure(n_crops, args.repeat, args.device)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{n_crops} crops, {where}; G multiply-accumulates: timm {found['macs'] / 1e9:.3f}, ours "
        f"{found['macs_done'] / 1e9:.3f}"
    )
    print(", ".join(f"peak {dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in found["peak"].items()))
    print(f"{'':<28}{'nuclei/s':>10}{'to (a)':>9}{'to (b)':>9}{'of peak':>9}")
    first, second = (rate["nuclei_per_s"] for rate in list(found["rates"].values())[:2])
    for name, rate in found["rates"].items():
        speed = rate["nuclei_per_s"]
        print(f"{name:<28}{speed:>10,.0f}{speed / first:>8.2f}x{speed / second:>8.2f}x{rate['share_of_peak']:>9.1%}")
    print("least cosine to timm in fp32: " + ", ".join(f"{dtype} {c:.6f}" for dtype, c in found["cosine"].items()))
    if args.json:
        args.json.write_text(json.dumps({"crops": n_crops, "device": where, **found}, indent=1))


if __name__ == "__main__":
    main()
