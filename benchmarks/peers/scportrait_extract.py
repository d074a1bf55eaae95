"""Extraction of nuclei with scPortrait, in the environment of `scportrait.txt`.

    python scportrait_extract.py FOLDER THREADS SIZE

`FOLDER` holds `image.npy`, uint8 (3, h, w), and `labels.npy`, uint32 (h, w): one nucleus per number. Prints JSON: how
many were extracted, and the seconds that scPortrait itself notes for cutting alone and for all of its extraction.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import spatialdata as sd
from scportrait.pipeline.extraction import HDF5CellExtraction
from scportrait.pipeline.project import Project
from spatialdata.models import Image2DModel, Labels2DModel


def main():
    folder, threads, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    image, labels = np.load(folder / "image.npy"), np.load(folder / "labels.npy")
    sd.SpatialData(
        images={"image": Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2])},
        labels={"nuclei": Labels2DModel.parse(labels, dims=("y", "x"), scale_factors=[2])},
    ).write(folder / "input.zarr")
    config = {
        "HDF5CellExtraction": {
            "threads": threads,
            "image_size": size,
            "cache": str(folder),
            "compression": True,
            "normalize_output": False,
        }
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    project = Project(
        str(folder / "project"), config_path=str(folder / "config.yml"), extraction_f=HDF5CellExtraction, overwrite=True
    )
    project.load_input_from_sdata(
        folder / "input.zarr", input_image_name="image", nucleus_segmentation_name="nuclei", keep_all=False
    )
    project.extract()
    noted = pd.read_csv(next((folder / "project").rglob("*benchmark*.csv"))).iloc[-1]
    found = {
        "nuclei": int(noted["Number of classes extracted"]),
        "cut_s": float(noted["Time taken to extract single cell images"]),
        "total_s": float(noted["Total extraction time"]),
    }
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
