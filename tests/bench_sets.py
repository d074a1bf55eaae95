"""Small imitations of data sets in the layout in which they are published. Classes differ in the colour of the nucleus.

A nucleus is a disc of 10 px radius on pink ground; `COLOURS` are those of the classes, in the order of the sets'.
"""

import gzip
import json

import numpy as np
import pandas as pd
import shapely
import tifffile
from PIL import Image

COLOURS = [(90, 60, 140), (40, 20, 60), (60, 90, 200), (150, 90, 60), (20, 120, 60)]
GROUND = (230, 190, 215)


def ground(height, width, seed=0):
    """Pink with a little noise, so that no two crops are the same."""
    noise = np.random.default_rng(seed).integers(-8, 9, (height, width, 3))
    return (np.array(GROUND) + noise).clip(0, 255).astype(np.uint8)


def disc(pixels, x, y, k, radius=10):
    """Paint the nucleus of class `k`; pixel (r, c) has its centre at (c + 0.5, r + 0.5)."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    inside = np.hypot(rows - y, columns - x) < radius
    pixels[inside] = (np.array(COLOURS[k]) + (pixels[inside].astype(int) - GROUND)).clip(0, 255)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def field(classes, n=12, seed=0):
    """Pixels (200, 260, 3) with `n` nuclei, and (x, y, class) of each."""
    pixels, found = ground(200, 260, seed), []
    for k in range(n):
        x, y = 35.0 + 60 * (k % 4), 35.0 + 60 * (k // 4)
        disc(pixels, x, y, k % len(classes))
        found.append((x, y, classes[k % len(classes)]))
    return pixels, found


def plain(folder, name="brecahad", classes=("Tumor_nuclei", "Apoptosis", "Mitosis"), slides=8, per_slide=1, **columns):
    """``nuclei/<name>``: an image per slide and `per_slide`, and a nucleus at the border of each, which has no crop."""
    rows = []
    for s in range(slides):
        for k in range(per_slide):
            image = f"s{s}-{k}"
            pixels, found = field(classes, seed=s * 100 + k)
            save(folder / "nuclei" / name / "images" / f"{image}.png", pixels)
            rows += [{"image": image, "x": x, "y": y, "type": c, "slide": f"s{s}"} for x, y, c in found]
            rows.append({"image": image, "x": 3.0, "y": 100.0, "type": classes[0], "slide": f"s{s}"})
    pd.DataFrame(rows).assign(**columns).to_csv(folder / "nuclei" / name / "nuclei.csv", index=False)


def amibr(folder, slides=8, per_slide=6):
    """``nuclei/amibr``: an image of 128 px per mitosis."""
    rows = []
    for s in range(slides):
        for k in range(per_slide):
            pixels, name = ground(128, 128, s * 50 + k), f"AMi-Br_{s}_{k}"
            disc(pixels, 64, 64, k % 2)
            save(folder / "nuclei" / "amibr" / "images" / f"{name}.png", pixels)
            label = ("normal", "atypical")[k % 2]
            rows.append({"image": name, "x": 64.0, "y": 64.0, "type": label, "slide": f"s{s}", "set": "AMi-Br"})
    pd.DataFrame(rows).to_csv(folder / "nuclei" / "amibr" / "nuclei.csv", index=False)


def nucls(folder, *, dots=False):
    """``nucls/rgb`` and ``nucls/csv``: boxes at 0.2 um/px; some nuclei are ambiguous, some corrected."""
    levels = [  # raw, main, super
        ("tumor", "tumor_nonMitotic", "tumor_any"),
        ("correction_lymphocyte", "lymphocyte", "sTIL"),
        ("fibroblast", "nonTIL.nonMQ_stromal" if dots else "nonTILnonMQ_stromal", "nonTIL_stromal"),
        ("unlabeled", "AMBIGUOUS", "AMBIGUOUS"),
    ]
    for s, fov in enumerate(["TCGA-A1-A0SK-DX1_id-1", "TCGA-A1-A0SK-DX1_id-2", "TCGA-A2-A0CM-DX1_id-3"]):
        pixels, found = field(levels, seed=s)
        save(folder / "nucls" / "rgb" / f"{fov}.png", pixels)
        rows = [
            {"raw_classification": c[0], "main_classification": c[1], "super_classification": c[2], "type": "rectangle",
             "xmin": x - 10, "ymin": y - 12, "xmax": x + 10, "ymax": y + 12}
            for x, y, c in found
        ]  # fmt: skip
        (folder / "nucls" / "csv").mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(folder / "nucls" / "csv" / f"{fov}.csv", index=False)
    pd.DataFrame({"fovname": ["a"], "xmin": [0]}).to_csv(folder / "nucls" / "csv" / "ALL_FOV_LOCATIONS.csv")


def pannuke(folder, *, folds=3, images=2, sizes=(9, 5, 4, 2, 3)):
    """``pannuke/Fold k``: `sizes` nuclei of each class per image, the order of the classes being that of the channels.

    Dead cells, the fourth channel, are the fewest.
    """
    for f in range(1, folds + 1):
        stack = np.stack([ground(256, 256, f * 10 + k) for k in range(images)])
        masks = np.zeros((images, 256, 256, 6), np.float64)
        rows, columns = np.mgrid[:256, :256] + 0.5
        for k in range(images):
            place = 0
            for channel, size in enumerate(sizes):
                for _ in range(size):
                    x, y = 33.0 + 38 * (place % 6), 33.0 + 38 * (place // 6)
                    place += 1
                    disc(stack[k], x, y, channel)
                    masks[k, ..., channel][np.hypot(rows - y, columns - x) < 10] = place
        masks[..., 5] = masks[..., :5].sum(axis=-1) == 0
        for kind, name, array in (
            ("images", "images", stack.astype(np.float64)),
            ("images", "types", np.array(["Breast"] * images)),
            ("masks", "masks", masks),
        ):
            path = folder / "pannuke" / f"Fold {f}" / kind / f"fold{f}" / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)


def midog25(folder, n=40, small=4):
    """``midog25``: a patch per mitosis; the last `small` are of 64 px, without a whole window of 128."""
    home, rows = folder / "midog25", []
    for k in range(n):
        side = 64 if k >= n - small else 128
        pixels = ground(side, side, k)
        disc(pixels, side / 2, side / 2, k % 2)
        save(home / "MIDOG25_Binary_Classification_Train_Set" / f"{k}.png", pixels)
        rows.append({"image_id": f"{k}.png", "filename": f"{k % 7}.tiff", "majority": ("NMF", "AMF")[k % 2]})
    rows.append({"image_id": "none.png", "filename": "0.tiff", "majority": None})
    pd.DataFrame(rows).to_csv(home / "MIDOG25_Atypical_Classification_Train_Set.csv", index=False)


def ami_br(folder):
    """``ami_br/AMi-Br`` and ``ami_br/AtNorM-Br``: two ways in which the repositories name images and classes."""
    rows = []
    for k in range(12):
        pixels = ground(128, 128, k)
        disc(pixels, 64, 64, k % 2)
        save(folder / "ami_br" / "AMi-Br" / "patches" / f"MIDOG21_{k}.png", pixels)
        rows.append({"slide": f"{k % 3}.tiff", "dataset": "MIDOG21", "uid": k, "majority_atypical": bool(k % 2)})
        save(folder / "ami_br" / "AtNorM-Br" / "images" / f"{k}.png", pixels)
    pd.DataFrame(rows).to_csv(folder / "ami_br" / "AMi-Br" / "AMi-Br.csv", index=False)
    table = pd.DataFrame({"filename": [f"{k}.png" for k in range(12)], "majority": ["Normal", "Atypical"] * 6})
    table.to_csv(folder / "ami_br" / "AtNorM-Br" / "AtNorM-Br.csv", index=False)


def hest(folder, slides, *, mpp=0.2, n=30):
    """``hest``: nuclei whose colour says how much of gene A they have; gene B is noise, C is in one panel only."""
    home = folder / "hest"
    for name in ("wsis", "xenium_seg", "transcripts", "metadata"):
        (home / name).mkdir(parents=True, exist_ok=True)
    for s, slide in enumerate(slides):
        rng = np.random.default_rng(s)
        pixels, shapes, molecules = ground(400, 420, s), [], []
        for k in range(n):
            x, y, kind = 40.0 + 65 * (k % 6), 40.0 + 65 * (k // 6), int(rng.integers(2))
            disc(pixels, x, y, kind)
            shapes.append(shapely.Point(x, y).buffer(10).wkb)
            counts = {"A": 2 + 9 * kind, "B": int(rng.integers(1, 9)), "NegControlProbe_1": 3}
            counts |= {"C": 4} if s == 0 else {}
            cell = f"cell-{k}"
            molecules += [(cell, gene, 40.0) for gene, many in counts.items() for _ in range(many)]
            molecules += [(cell, "A", 5.0)] * 7 + [("UNASSIGNED", "A", 40.0)]
        tifffile.imwrite(home / "wsis" / f"{slide}.tif", pixels, photometric="rgb", tile=(128, 128))
        ids = [f"cell-{k}" for k in range(n)]
        pd.DataFrame({"geometry": shapes}, index=ids).to_parquet(
            home / "xenium_seg" / f"{slide}_xenium_nucleus_seg.parquet"
        )
        table = pd.DataFrame(molecules, columns=["cell_id", "feature_name", "qv"])
        table["feature_name"] = table["feature_name"].str.encode("utf-8")  # as some files of the data set have them
        table.to_parquet(home / "transcripts" / f"{slide}_transcripts.parquet")
        meta = {"pixel_size_um_estimated": mpp, "patient": f"Patient {s}", "dataset_title": "a study"}
        (home / "metadata" / f"{slide}.json").write_text(json.dumps(meta))


def her2st(folder, sections=("B4", "C2", "C3", "C5"), n=36):
    """``her2st``: spots whose ground says how much of gene A they have; one spot is not selected."""
    for s, section in enumerate(sections):
        rng, home = np.random.default_rng(s), folder / "her2st" / section
        pixels, places, counts = ground(700, 700, s), [], {}
        for k in range(n):
            x, y, kind = 100.0 + 100 * (k % 6), 100.0 + 100 * (k // 6), int(rng.integers(2))
            pixels[int(y) - 50 : int(y) + 50, int(x) - 50 : int(x) + 50] -= np.uint8(60 * kind)
            places.append({"x": k % 6, "y": k // 6, "pixel_x": x, "pixel_y": y, "selected": int(k > 0)})
            counts[f"{k % 6}x{k // 6}"] = {"A": 2 + 9 * kind, "B": int(rng.integers(1, 9)), "rare": int(k == 3)}
        save(home / "he.jpg", pixels)
        pd.DataFrame(places).to_csv(home / "selection.tsv", sep="\t", index=False)
        with gzip.open(home / "counts.tsv.gz", "wt") as file:
            pd.DataFrame(counts).T.to_csv(file, sep="\t")
