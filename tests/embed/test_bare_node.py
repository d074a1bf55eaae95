"""A GPU node may have torch and timm, and neither scverse nor a compiler for Python."""

import subprocess
import sys

CODE = """
import sys
for name in "numba llvmlite anndata spatialdata scanpy dask xarray zarr shapely pandas scipy".split():
    sys.modules[name] = None
import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from lemon_sc.crops.uncut import stream_uncut
from lemon_sc.embed import embed_batches
from lemon_sc.io.image import ArrayLevel, Image
from lemon_sc.models import ModelCard, as_encoder

torch.set_num_threads(1)
torch.manual_seed(0)
module = VisionTransformer(img_size=40, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0).eval()
encoder = as_encoder(module, ModelCard(name="tiny", dim=32))
pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
image = Image([ArrayLevel(pixels, chunk_px=64)], [(1.0, 1.0)])
xy = np.random.default_rng(1).uniform(22, 278, (40, 2)).round()
windows = stream_uncut(image, xy, mpp=(0.25, 0.25), block_px=64)
z = embed_batches(windows, encoder, n=40, device="cpu", dtype="fp32", progress=False)
crops = [pixels[int(y) - 20 : int(y) + 20, int(x) - 20 : int(x) + 20] for x, y in xy]
print(float(np.abs(z - encoder.encode(np.stack(crops))).max()))
"""


def test_pixels_to_rows_without_numba_and_scverse():
    """Centres on whole px: the crops are then slices of the image."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4
