"""The corpus that the shipped encoder is trained on, and what is kept from it for evaluation.

    LEMON_SC_DATA=... python benchmarks/corpus.py --out corpus.zarr [--large] [--probe-set probe.npz]

Of the sets under LEMON_SC_DATA, those whose licence lets the weights be released. Crops of 60 px at 0.25 um/px; a batch
is drawn evenly from all crops, so `MOST` of a slide are taken where a set would lead by its number of nuclei; with
`--large`, `LARGE`: all of nuinsseg whose window lies inside the image, and so two thirds of the crops.

    nuinsseg     31 organs, a slide each; 0.24 um/px is assumed from the size of its nuclei. Its images are dark: glass
                 without tissue is (166, 151, 161) on every slide that shows some. It is set to 240, as elsewhere
    tnbc         all
    amibr        the slides that are not held out: the mitotic figure in the centre of each image, and what the detector
                 finds around it. Images of one slide may overlap, and a nucleus be there twice: their place is unknown
    brecahad     the cases that are not held out: what is annotated (tubules are no nuclei), and, as most nuclei are
                 not, what the detector finds between; 0.25 um/px is assumed (40x)
    xenium       nuclei of a Xenium run on its H&E, by the run's own alignment

Held out, by slide (`held_out`): one half of the slides of amibr and of the cases of brecahad. Held out whole: the part
of amibr that names no slides (AtNorM-Br, TCGA) and nucls_sample (TCGA, too), consep (its licence allows evaluation).
Left out: dsb2018_purple (few of its images are H&E, the pixel size is unknown), her2st (0.69 um/px: pixels of nuclei
that are not there cannot be made), the slide of OpenSlide's test data (its licence says nothing of weights).

`--probe-set` writes the held-out mitotic figures of AMi-Br for scoring an encoder while it trains: an .npz of crops
uint8 (n, 60, 60, 3), labels (normal, atypical) and groups (slides).
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from lemon_sc.bench.sets.nuclei_csv import MPP, table_of
from lemon_sc.crops.stream import stream_crops
from lemon_sc.geometry.windows import inside, window_side
from lemon_sc.io.image import array_image
from lemon_sc.models.detect import detect_nuclei
from lemon_sc.train import FolderSource, SpatialDataSource, build_corpus
from lemon_sc.train.corpus import TRAIN_PX
from lemon_sc.train.corpus_images import read_rgb

LICENCE = {
    "amibr": "MIT; MIDOG images CC0 (AMi-Br: MIDOG21, TUPAC16)",
    "brecahad": "CC BY 4.0 (BreCaHAD: Aksac et al. 2019)",
    "nuinsseg": "CC BY 4.0 (NuInsSeg: Mahbod et al. 2024)",
    "tnbc": "CC BY 4.0 (TNBC: Naylor et al. 2018)",
    "xenium": "CC BY 4.0 (10x Genomics; Janesick et al. 2023)",
}
FOUND = {"amibr": 6.0, "brecahad": 3.0}
"""Sets where the detector adds nuclei, at least so many um from what is annotated: a mitotic figure may be two plates.
"""
MOST = {"nuinsseg": 450, "brecahad": 1500}
"""Most nuclei of a slide, drawn before those at the border are left out."""
LARGE = {"brecahad": 6000}
GLASS = {"nuinsseg": (166, 151, 161)}
"""RGB of glass without tissue where it is far from white, the 99.95th percentile of the slides that show some."""
WHITE = 240


def home():
    """Folder of the data."""
    path = Path(os.environ.get("LEMON_SC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        msg = f"No data at '{path}'. Name their folder in the environment variable LEMON_SC_DATA."
        raise FileNotFoundError(msg)
    return path


def with_found(table, images, *, mpp, apart_um):
    """Centres that are annotated, and then those that the detector finds away from them, image by image."""
    found = []
    for image, part in table.groupby("image", sort=True):
        known = part[["x", "y"]].to_numpy(dtype=np.float64)
        pixels = read_rgb(images / f"{image}.jpg")
        near = detect_nuclei(pixels, mpp=mpp)
        distance, _ = cKDTree(known).query(near)
        xy = np.concatenate([known, near[distance >= apart_um / mpp]])
        xy = xy[~on_padding(pixels, xy)]
        found.append(pd.DataFrame({"image": image, "x": xy[:, 0], "y": xy[:, 1], "slide": part["slide"].iloc[0]}))
    return pd.concat(found, ignore_index=True)


def on_padding(pixels, xy):
    """Whether the window around a centre holds black that was added beyond the border of a slide."""
    is_black = pixels.max(axis=2) <= 8
    corners = np.clip(np.round(xy - TRAIN_PX / 2).astype(int), 0, None)
    return np.array([is_black[y : y + TRAIN_PX, x : x + TRAIN_PX].mean() > 0.02 for x, y in corners], dtype=bool)


def at_most(table, n):
    """Rows of a table, at most `n` of a slide."""
    drawn = table.sample(frac=1, random_state=0).groupby("slide").head(n)
    return drawn.sort_index()


def lit(pixels, glass):
    """Pixels as if `glass` were white: light is scaled channel by channel, and with it no optical density changes."""
    gain = WHITE / np.asarray(glass)
    levels = np.minimum(np.arange(256)[:, None] * gain, 255).round().astype(np.uint8)
    return np.stack([levels[pixels[..., k], k] for k in range(3)], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """The images of a source that are named, lit anew if their glass is not white."""

    source: FolderSource
    images: frozenset
    glass: tuple | None = None

    @property
    def name(self):
        return self.source.name + ("" if self.glass is None else "_lit")

    @property
    def licence(self):
        return self.source.licence

    def pictures(self):
        kept = [picture for picture in self.source.pictures() if picture.name in self.images]
        if self.glass is None:
            return kept
        return [
            dataclasses.replace(
                picture, open=lambda path=picture.files[0]: array_image(lit(read_rgb(path), self.glass))
            )
            for picture in kept
        ]


def folder_source(folder, name, most):
    """Source of a set of images, without what is held out, with at most so many nuclei of a slide."""
    home_of_set = folder / "nuclei" / name
    table = table_of(folder, name)
    first = table.groupby("image").first()
    kept = table[~table["held_out"]]
    xy = kept
    if name in FOUND:
        xy = with_found(kept, home_of_set / "images", mpp=MPP[name], apart_um=FOUND[name])
    if name in most:
        xy = at_most(xy, most[name])
    organ = dict(zip(first.index, first["species"] + " " + first["organ"], strict=True)) if "organ" in first else None
    slide = first["slide"].to_dict()
    files = {path.stem for path in (home_of_set / "images").iterdir()}
    source = FolderSource(
        name=name,
        licence=LICENCE[name],
        images=home_of_set / "images",
        mpp=MPP[name],
        centroids=xy[["image", "x", "y"]],
        slide={image: slide.get(image, image) for image in files},  # images without nuclei are in no table
        organ={image: organ.get(image, "unknown") for image in files} if organ else "human breast",
    )
    return Part(source=source, images=frozenset(kept["image"]), glass=GLASS.get(name))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """A Xenium run and its H&E; known in the manifest by the files it is made of."""

    outs: Path
    name: str = "xenium"
    licence: str = LICENCE["xenium"]

    def pictures(self):
        import spatialdata_io

        import lemon_sc as lm

        files = [self.outs / name for name in ("he_image.ome.tif", "he_imagealignment.csv")]
        sdata = spatialdata_io.xenium(
            self.outs, cells_as_circles=False, cells_labels=False, nucleus_labels=False, aligned_images=False
        )
        lm.pp.add_image(sdata, files[0], alignment=files[1])
        source = SpatialDataSource(name=self.name, licence=self.licence, data=sdata, organ="human breast")
        nuclei = self.outs / "nucleus_boundaries.parquet"
        return [dataclasses.replace(picture, files=(*files, nuclei)) for picture in source.pictures()]


def sources(folder, most=MOST):
    """All that is trained on."""
    found = [folder_source(folder, name, most) for name in ("nuinsseg", "tnbc", "amibr", "brecahad")]
    return [*found, Run(outs=folder / "xenium_breast_mini" / "outs")]


def crops_of(folder, name, table, *, size_px):
    """Crops of nuclei at 0.25 um/px, uint8 (n, S, S, 3), and their rows: those whose window lies inside the image."""
    mpp = (MPP[name], MPP[name])
    crops, rows = [], []
    for image, part in table.groupby("image", sort=True):
        path = next((folder / "nuclei" / name / "images").glob(f"{image}.*"))
        pixels = read_rgb(path)
        xy = part[["x", "y"]].to_numpy(dtype=np.float64)
        whole = np.flatnonzero(inside(xy, window_side(size_px, mpp, 0.25), pixels.shape[:2]))
        for index, cut in stream_crops(array_image(pixels), xy[whole], mpp=mpp, size_px=size_px, workers=1):
            crops.append(cut)
            rows.append(part.index.to_numpy()[whole[index]])
    rows = np.concatenate(rows)
    order = np.argsort(rows)
    return np.concatenate(crops)[order], table.loc[rows[order]]


def write_probe_set(folder, path):
    """Held-out mitotic figures of AMi-Br."""
    table = table_of(folder, "amibr")
    table = table[table["held_out"] & (table["set"] == "AMi-Br")]
    crops, rows = crops_of(folder, "amibr", table, size_px=TRAIN_PX)
    np.savez_compressed(path, crops=crops, labels=rows["type"].to_numpy(str), groups=rows["slide"].to_numpy(str))
    print(f"{path}: {rows['type'].value_counts().to_dict()} of {rows['slide'].nunique()} held-out slides")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="store to write; an interrupted run goes on")
    parser.add_argument("--large", action="store_true", help="take more nuclei of a slide")
    parser.add_argument("--probe-set", type=Path, help=".npz of held-out crops to write")
    args = parser.parse_args()
    if args.out is None and args.probe_set is None:
        parser.error("say what to write: --out, --probe-set or both")
    start = time.perf_counter()
    if args.out is not None:
        manifest = build_corpus(sources(home(), LARGE if args.large else MOST), args.out)
        for source in manifest["sources"]:
            share = source["n_crops"] / manifest["n_crops"]
            slides = sum(s["source"] == source["name"] and s["n_crops"] > 0 for s in manifest["slides"])
            print(f"{source['name']:<14}{source['n_crops']:>7} crops ({share:.0%}) of {slides} slides")
        print(f"{args.out}: {manifest['n_crops']} crops, {(time.perf_counter() - start) / 60:.1f} minutes")
    if args.probe_set is not None:
        write_probe_set(home(), args.probe_set)


if __name__ == "__main__":
    main()
