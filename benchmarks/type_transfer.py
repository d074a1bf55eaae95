"""How well types of nuclei carry over to images of another laboratory: from NuCLS (breast) to CoNSeP (colon).

    LEMON_SC_DATA=... python benchmarks/type_transfer.py [--model NAME_OR_PATH ...]

The reference is that of benchmarks/type_reference.py, the model that of `lm.tl.transfer_labels`. Nothing is learned
from CoNSeP: its epithelial nuclei are taken for tumor_any, its inflammatory ones for sTIL, its spindle-shaped ones for
nonTIL_stromal; its miscellaneous ones (360) are left out, and so are nuclei whose crop is not wholly inside the image.
Epithelium of CoNSeP is normal or malignant, and endothelium counts as spindle-shaped: no mapping is exact. Intervals
(95 %) are over its images.

`standardize`: with the mean and sd of the reference; of all images, as a slide of mixed tissue has; of each image
alone, where types are seldom mixed. Rows `shuffled`: labels of the reference shuffled, mean of five. Rows tested on
`nucls`: its own tiles, each held out once; without intervals, for 15 tiles of 25 nuclei are few.

Writes benchmarks/results/type_transfer.csv and type_transfer_confusion.csv (rows: truth, columns: predicted); rows of
other encoders stay.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from corpus import crops_of, home, table_of
from type_reference import nuclei_of, read, reference_of

import lemon_sc as lm
from lemon_sc.analysis.label_transfer import fit_labels, predict_labels
from lemon_sc.analysis.splits import leave_one_group_out
from lemon_sc.metrics.classification import METRICS

RESULTS = Path(__file__).parent / "results"
TYPES = {"epithelial": "tumor_any", "inflammatory": "sTIL", "spindle": "nonTIL_stromal"}
N_SHUFFLES = 5


def targets(folder):
    """Crops, types and images of CoNSeP."""
    table = table_of(folder, "consep")
    crops, rows = crops_of(folder, "consep", table[table["type"].isin(TYPES)], size_px=40)
    return crops, rows["type"].map(TYPES).to_numpy(str), rows["image"].to_numpy(str)


def predictions(model, x, image):
    """Probabilities by how features are standardised."""
    own = np.empty((len(x), len(model.classes)))
    for name in np.unique(image):
        own[image == name] = predict_labels(model, x[image == name], standardize="query")
    return {
        "reference": predict_labels(model, x),
        "all images": predict_labels(model, x, standardize="query"),
        "each image": own,
    }


def scored(known, x, truth, image):
    """Rows of scores, and of the confusion table."""
    folds = leave_one_group_out(known.slides)
    model = fit_labels(known.x, known.labels, folds)
    confusion = []
    rows = [
        {"tested_on": "nucls", "standardize": "reference", "metric": metric, "n": len(known.labels),
         "n_images": len(folds.names), "c": model.c, "value": getattr(model.held_out, metric)}
        for metric in METRICS
    ]  # fmt: skip
    for how, probability in predictions(model, x, image).items():
        about = {"tested_on": "consep", "standardize": how, "n": len(truth), "n_images": len(set(image)), "c": model.c}
        made = lm.metrics.classification_intervals(truth, probability, classes=model.classes, units=image)
        rows += [
            about | {"metric": metric, "value": made[metric].value, "low": made[metric].low, "high": made[metric].high}
            for metric in METRICS
        ]
        each = lm.metrics.classification(truth, probability, classes=model.classes)
        for k, name in enumerate(model.classes):
            rows.append(about | {"metric": f"recall {name}", "value": each.class_recall[k]})
            rows.append(about | {"metric": f"f1 {name}", "value": each.class_f1[k]})
        guess = np.array(model.classes)[probability.argmax(axis=1)]
        table = pd.crosstab(truth, guess).reindex(index=model.classes, columns=model.classes, fill_value=0)
        confusion += [{"standardize": how, "truth": name, **table.loc[name].to_dict()} for name in model.classes]
    rng, chance = np.random.default_rng(0), []
    for _ in range(N_SHUFFLES):
        nothing = fit_labels(known.x, rng.permutation(known.labels), folds)
        made = lm.metrics.classification(truth, predict_labels(nothing, x), classes=model.classes)
        chance.append([getattr(made, metric) for metric in METRICS])
    rows += [
        {"tested_on": "consep", "standardize": "reference", "metric": metric, "n": len(truth),
         "n_images": len(set(image)), "shuffled": True, "value": value}
        for metric, value in zip(METRICS, np.mean(chance, axis=0), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(confusion)


def keep(path, made):
    """Write rows of some encoders, with those of the others that are there."""
    if path.is_file():
        old = pd.read_csv(path)
        made = pd.concat([old[~old["encoder"].isin(made["encoder"])], made], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.to_csv(path, index=False, float_format="%.4f")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME_OR_PATH")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    pd.set_option("display.width", 200, "display.max_columns", 20)
    folder = home()
    labelled, (crops, truth, image) = nuclei_of(folder), targets(folder)
    for name in args.model or dict.fromkeys([lm.models.available()[0].name, "morphometry"]):
        encoder = read(name)
        known = reference_of(encoder, *labelled)
        rows, confusion = scored(known, lm.models.encode(crops, encoder, device="cpu"), truth, image)
        for file, made in (("type_transfer.csv", rows), ("type_transfer_confusion.csv", confusion)):
            made.insert(0, "encoder", encoder.card.name)
            keep(args.out / file, made)
        shown = rows[rows["metric"].isin(METRICS)].pivot_table(
            index=["tested_on", "standardize", rows["shuffled"].notna()],
            columns="metric", values="value", sort=False)  # fmt: skip
        print(f"{encoder.card.name}\n{shown.round(3)}\n{confusion}")


if __name__ == "__main__":
    main()
