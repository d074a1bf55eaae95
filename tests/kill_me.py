"""A run of the main line on a slide on disk, to be killed at any moment."""

from pathlib import Path

import numpy as np
import spatialdata as sd
from slow import CARD, slow

import lemon_sc as lm
from lemon_sc.io import shards

SHARD = 16


def main(slide, folder, out, ready):
    """Says on a connection when it has opened the slide."""
    shards.writing.__wrapped__.__kwdefaults__["shard"] = SHARD
    sdata = sd.read_zarr(slide)
    ready.send("ready")
    lm.pp.extract_nuclei(sdata, store=Path(folder) / "crops.zarr")
    lm.tl.embed(sdata, model=(slow, CARD), batch_size=8, store=Path(folder) / "rows.zarr")
    lm.tl.embed(sdata, key_added="X_morphometry")
    table = sdata["table"]
    np.savez(
        out,
        slow=table.obsm["X_lemon"],
        morphometry=table.obsm["X_morphometry"],
        qc=table.obs["nucleus_qc"].astype(str).to_numpy(dtype=str),
    )
