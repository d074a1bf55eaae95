"""A run of the main line on a slide on disk, to be killed at any moment: python kill_me.py SLIDE FOLDER OUT."""

import sys
from pathlib import Path

import numpy as np
import spatialdata as sd
from slow import CARD, slow

import lemon_sc as lm
from lemon_sc.io import shards

SHARD = 16


def main(slide, folder, out):
    shards.writing.__wrapped__.__kwdefaults__["shard"] = SHARD
    sdata = sd.read_zarr(slide)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
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


if __name__ == "__main__":
    main(*sys.argv[1:])
