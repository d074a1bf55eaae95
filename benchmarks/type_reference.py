"""Write the labelled nuclei that `lm.tl.transfer_labels` learns types from, embedded by an encoder.

    LEMON_SC_DATA=... python benchmarks/type_reference.py [--model NAME_OR_PATH ...] [--out FOLDER]

The sample of NuCLS (Amgad et al. 2022, CC0): the super-classes tumor_any, sTIL and nonTIL_stromal, crops of 40 px that
lie wholly inside their tile. Without `--model`, the default encoder of the package and `morphometry`. A file for each
in src/lemon_sc/tl/label_references, named after the encoder; one of the same name is replaced, others stay.
"""

import argparse
from pathlib import Path

import numpy as np
from corpus import crops_of, home, table_of

import lemon_sc as lm
from lemon_sc.bench.encoders import one as read
from lemon_sc.tl._embed_table import describe, in_words
from lemon_sc.tl._label_references import FOLDER, LabelReference, write_reference

NAME, SET, OTHER = "nucls", "nucls_sample", "other_nucleus"
FACTS = {
    "licence": "CC0",
    "source": "NuCLS, M. Amgad et al., GigaScience 2022; https://sites.google.com/view/nucls",
    "made_by": "benchmarks/type_reference.py",
}


def nuclei_of(folder):
    """Crops of the labelled nuclei and their rows."""
    table = table_of(folder, SET)
    return crops_of(folder, SET, table[table["type"] != OTHER], size_px=40)


def reference_of(encoder, crops, rows, *, device="cpu"):
    """The reference as it is shipped: float16, in the words that `lm.tl.embed` has for the encoder."""
    how = describe(encoder, device=device, dtype="fp32")
    return LabelReference(
        name=NAME,
        encoder=in_words({**how, "mask": "", "multiple": "", "stain": ""}),
        x=lm.models.encode(crops, encoder, device=device, dtype="fp32").astype(np.float16).astype(np.float32),
        labels=rows["type"].to_numpy(str),
        slides=rows["slide"].to_numpy(str),
        facts=FACTS | {"model": how["model"], "weights_sha256": how["weights_sha256"]},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME_OR_PATH")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    crops, rows = nuclei_of(home())
    print(f"{len(rows)} nuclei of {rows['slide'].nunique()} tiles: {rows['type'].value_counts().to_dict()}")
    models = args.model or dict.fromkeys([lm.models.available()[0].name, "morphometry"])
    for name in models:
        path = write_reference(reference_of(read(name), crops, rows), args.out)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
