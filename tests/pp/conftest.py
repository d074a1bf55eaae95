"""Runs of Xenium Onboard Analysis 1 and 2."""

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from layouts import annotating, made
from spatialdata.models import Labels2DModel
from spatialdata.transformations import Identity


@pytest.fixture(scope="session")
def run():
    """XOA >= 2: text ids, nuclei numbered independently of cells, cells with two nuclei and with none."""
    return made()


@pytest.fixture(scope="session")
def old_run():
    """XOA 1.0: whole numbers, one nucleus per cell at most."""
    return made(ids="int")


@pytest.fixture(scope="session")
def run_1_3(old_run):
    """XOA 1.3 to 1.9: text ids index the nuclei, and numbers from 1 are the labels of cells and of nuclei alike."""
    table = old_run["table"].copy()
    number = pd.Series(np.arange(1, table.n_obs + 1), index=table.obs["cell_id"].to_numpy())
    name = {i: f"aaaabb{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}-1" for i in number.index}
    rasters = {}
    for key in ("nucleus_labels", "cell_labels"):
        plane = np.asarray(old_run[key]["scale0"].image)
        lut = np.zeros(plane.max() + 1, dtype=np.uint32)
        lut[number.index] = number.to_numpy()
        rasters[key] = Labels2DModel.parse(lut[plane], dims=("y", "x"), transformations={"global": Identity()})
    nuclei = old_run["nucleus_boundaries"].copy()
    nuclei.index = pd.Index([name[i] for i in nuclei.index], name="cell_id")
    table.obs["cell_labels"] = table.obs["cell_id"].map(number)
    table.obs["cell_id"] = table.obs["cell_id"].map(name)
    table.obs_names = table.obs["cell_id"].tolist()
    source = sd.SpatialData(
        images={"he_image": old_run["he_image"]},
        labels=rasters,
        shapes={"nucleus_boundaries": nuclei},
        points=dict(old_run.points),
        tables={"table": table},
    )
    return annotating(source, "cell_labels", "cell_labels")
