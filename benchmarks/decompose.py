"""Cell-type proportions of HER2ST spots from their image, one patient learned from and the other predicted, both ways.

    python benchmarks/decompose.py [--model NAME_OR_PATH] [--out FOLDER] [--epochs N]

Features are kept in the folder and used again by a second run with it.

Needs `her2st` under LEMON_SC_DATA: four sections of two patients with the proportions that stereoscope estimated.
Each spot is described by the colours of its patch, by the nuclei in it (outlined by their haematoxylin, measured or
embedded, mean and sd over the spot), and by both. The control learns from, and is scored against, spots whose
proportions were shuffled within their section. Intervals (95 %) are over the four sections, and of CC over spots, too.
"""

import argparse
import logging
import os
import time
from pathlib import Path

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import spatialdata as sd
from PIL import Image
from shapely import points
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import lemon_sc as lm
from lemon_sc.bench.encoders import histograms
from lemon_sc.bench.sets.her2st import HER2ST_MPP, SECTIONS, SPOT_UM

PATCH_UM = 112.0
TRUTH = "stereoscope"
COLOURS = (histograms, lm.models.ModelCard(name="histogram", dim=48, input_px=224, mpp=0.5, license="no weights"))
FEATURES = {
    "colours": ["colours"],
    "nuclei": ["X_nuclei", "X_nuclei_sd", "density"],
    "colours + nuclei": ["colours", "X_nuclei", "X_nuclei_sd", "density"],
}


def read_section(home):
    """The part of the H&E that holds spots, and the spots: centres in its px, proportions."""
    places = pd.read_csv(home / "selection.tsv", sep="\t")
    places = places[places["selected"] == 1] if "selected" in places else places
    places.index = places["x"].astype(str) + "x" + places["y"].astype(str)
    shares = pd.read_csv(home / "celltype_proportions.tsv", sep="\t", index_col=0)
    spots = [name for name in shares.index if name in places.index]
    xy = places.loc[spots, ["pixel_x", "pixel_y"]].to_numpy(float)
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(home / "he.jpg") as whole:
        low = np.maximum(np.floor(xy.min(axis=0) - PATCH_UM / HER2ST_MPP), 0).astype(int)
        high = np.minimum(np.ceil(xy.max(axis=0) + PATCH_UM / HER2ST_MPP), whole.size).astype(int)
        pixels = np.asarray(whole.convert("RGB").crop((*low, *high)))
    return pixels, xy - low, shares.loc[spots]


def outline(pixels, xy):
    """Labels of the nuclei in the squares that hold the spots, 0 elsewhere."""
    half = int(np.ceil(SPOT_UM / HER2ST_MPP / 2))
    labels = np.zeros(pixels.shape[:2], dtype=np.int32)
    for x, y in np.round(xy).astype(int):
        window = np.s_[max(y - half, 0) : y + half, max(x - half, 0) : x + half]
        found = lm.seg.segment_image(pixels[window], mpp=HER2ST_MPP, model="haematoxylin", device="cpu")
        labels[window] = np.where(found > 0, found + labels.max(), labels[window])
    return labels


def section_object(pixels, xy, shares):
    """The section as SpatialData: H&E, spots, and a table with their proportions."""
    circles = gpd.GeoDataFrame({"radius": SPOT_UM / HER2ST_MPP / 2}, geometry=points(xy), index=np.arange(len(xy)))
    table = ad.AnnData(obs=pd.DataFrame({"region": pd.Categorical(["spots"] * len(xy)), "spot": np.arange(len(xy))}))
    table.obs_names = shares.index.astype(str)
    table.obsm["spatial"] = xy * HER2ST_MPP
    table.obsm[TRUTH] = shares
    return sd.SpatialData(
        images={"he_image": Image2DModel.parse(pixels, dims=("y", "x", "c"), c_coords=("r", "g", "b"))},
        shapes={"spots": ShapesModel.parse(circles)},
        tables={"spots_table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot")},
    )


def describe(section, home, model):
    """The table of a section's spots with all features."""
    pixels, xy, shares = read_section(home)
    sdata = section_object(pixels, xy, shares)
    lm.pp.extract_patches(sdata, table_key="spots_table", size_um=PATCH_UM, mpp=HER2ST_MPP)
    lm.tl.embed(sdata, model=COLOURS, table_key="spots_table", key_added="colours", device="cpu")
    lm.pp.add_nuclei(sdata, outline(pixels, xy), mpp=HER2ST_MPP)
    lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    lm.tl.embed(sdata, model=model, table_key="he_nuclei_table", key_added="X_nuclei", device="cpu")
    lm.tl.pool_nuclei(sdata, use_rep="X_nuclei", table_key="he_nuclei_table", units_key="spots_table")
    spots = sdata["spots_table"]
    spots.obsm["density"] = np.log1p(spots.obs["X_nuclei_n"].to_numpy(np.float32))[:, None]
    spots.obs["section"], spots.obs["patient"] = section, section[0]
    spots.obs_names = section + "_" + spots.obs_names
    spots.uns.clear()
    return spots


def shuffled(spots, rng):
    """A copy whose proportions are those of another spot of the section."""
    other = spots.copy()
    order = np.arange(spots.n_obs)
    for section in SECTIONS:
        rows = np.flatnonzero(spots.obs["section"] == section)
        order[rows] = rng.permutation(rows)
    mixed = spots.obsm[TRUTH].iloc[order]
    other.obsm[TRUTH] = mixed.set_axis(other.obs_names)
    return other


def rows_of(name, spots, how):
    """Decompose, and one row of results."""
    lm.tl.decompose(spots, groups="patient", slides="section", truth=TRUTH, target="proportion", key_added="d", **how)
    made = spots.uns["lemon_sc"]["decompose"]["d"]
    ends = made["intervals"]
    row = {"features": name}
    for score in ("cc", "l1", "colocalization_cosine", "colocalization_correlation"):
        row |= {score: made[score], f"{score}_low": ends.loc[score, "low"], f"{score}_high": ends.loc[score, "high"]}
    truth = spots.obsm[TRUTH].to_numpy(float)
    truth, guess = truth / truth.sum(axis=1, keepdims=True), spots.obsm["d"].to_numpy(float)
    there = np.isfinite(guess).all(axis=1)
    over_spots = lm.metrics.bootstrap(
        (truth[there], guess[there], spots.obs["section"].to_numpy(str)[there]),
        score=lambda y, z, section: lm.metrics.decomposition(y, z, slide=section).cc,
        n_draws=200,
    )
    row |= {"cc_spots_low": over_spots.low, "cc_spots_high": over_spots.high, "n_spots": int(there.sum())}
    return row | {"cc_pooled": made["cc_pooled"], "l1_mean": made["l1_mean"]}, made


def ridge(spots):
    """Correlations of a linear probe on the same features and folds, by set of features."""
    x = {name: np.concatenate([spots.obsm[key] for key in keys], axis=1) for name, keys in FEATURES.items()}
    there = np.logical_and.reduce([np.isfinite(z).all(axis=1) for z in x.values()])
    what = spots[there]
    same = {
        "expression": what.obsm[TRUTH].to_numpy(float),
        "slides": what.obs["section"],
        "patients": what.obs["patient"],
    }
    first = x["colours"][there]
    return {name: lm.metrics.expression_gain(first, z[there], **same).after.pcc for name, z in x.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="morphometry", help="what describes a nucleus")
    parser.add_argument("--out", type=Path, default=Path("decompose"))
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    home, start = Path(os.environ.get("LEMON_SC_DATA", "data")) / "her2st", time.perf_counter()

    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "spots.h5ad"
    if not kept.is_file():
        ad.concat([describe(name, home / name, args.model) for name in SECTIONS], merge="same").write_h5ad(kept)
    spots = ad.read_h5ad(kept)
    n_nuclei = int(spots.obs["X_nuclei_n"].sum())
    print(
        f"{spots.n_obs} spots, {n_nuclei} nuclei in them, {time.perf_counter() - start:.0f} s to describe them",
        flush=True,
    )

    how = {"protocol": lm.tl.DecompositionProtocol(epochs=args.epochs)}
    rows, by_type, by_section = [], {}, {}
    for name, keys in FEATURES.items():
        row, made = rows_of(name, spots, how | {"use_rep": keys})
        rows.append(row)
        by_type[name], by_section[name] = made["summary"], made["slides"]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    lm.pl.decomposition(spots, key="d", slide="B4").savefig(args.out / "maps.png")
    row, _ = rows_of("shuffled", shuffled(spots, np.random.default_rng(0)), how | {"use_rep": FEATURES[name]})
    rows.append(row)
    table = pd.DataFrame(rows).set_index("features")
    table["cc_ridge"] = pd.Series(ridge(spots))
    table.to_csv(args.out / "scores.csv")
    pd.concat(by_type, names=["features"]).to_csv(args.out / "types.csv")
    pd.concat(by_section, names=["features"]).to_csv(args.out / "sections.csv")
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.precision", 3):
        print(table.T, by_type[name], by_section[name], sep="\n\n")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
