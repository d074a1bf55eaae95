import numpy as np
import pandas as pd
import shapely

from lemon_sc.datasets._transcripts import QV_PASS


def test_transcripts_add_up_to_the_table(run):
    rows, table = run["transcripts"].compute(), run["table"]
    mine = rows[rows["cell_id"] != "UNASSIGNED"]
    counted = pd.crosstab(mine["cell_id"], mine["feature_name"].astype(str))
    counted = counted.reindex(index=table.obs["cell_id"], columns=table.var_names, fill_value=0)
    np.testing.assert_array_equal(counted.to_numpy(), table.X.toarray())
    assert (mine["qv"] >= QV_PASS).all()
    assert rows["transcript_id"].is_unique


def test_some_belong_to_no_cell(run, old_run):
    stray = run["transcripts"].compute().query("cell_id == 'UNASSIGNED'")
    assert 0 < len(stray) < 0.05 * len(run["transcripts"])
    assert (stray["qv"] < QV_PASS).any()
    assert (old_run["transcripts"].compute()["cell_id"] == -1).any()


def test_transcripts_lie_in_their_cell_and_know_the_nucleus(run):
    rows = run["transcripts"].compute()
    rows = rows[rows["cell_id"] != "UNASSIGNED"].sample(2000, random_state=0)
    cells = run["cell_boundaries"].geometry[rows["cell_id"]].to_numpy()
    points = shapely.points(rows[["x", "y"]].to_numpy(float))
    assert shapely.distance(cells, points).max() < 0.3
    nuclei = shapely.union_all(run["nucleus_boundaries"].geometry.to_numpy())
    assert np.mean(shapely.contains(nuclei, points) == (rows["overlaps_nucleus"] == 1)) > 0.97
