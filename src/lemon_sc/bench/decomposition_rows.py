"""What a light network on frozen features reaches in decomposing spots, as published, to stand beside one's own."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from lemon_sc._core.errors import one_of

TASKS = ("her2st_to_stnet", "stnet_to_her2st", "her2st", "stnet", "any")
"""One cohort learned from and the other predicted; cross-validation by patient within one; and what has no cohort."""


def decomposition_reference(task: str | None = None) -> pd.DataFrame:
    """Published scores of the decomposition of spots into cell types from their image.

    The truth there are abundances that cell2location estimated with one breast reference for both cohorts. ``l1`` is in
    their units: it cannot be compared with an error of proportions, nor between cohorts with other totals. Values were
    taken from a description of the paper.

    Parameters
    ----------
    task
        One of `TASKS`; ``None`` is all.

    Returns
    -------
    One row per ``task``, ``model`` (its encoders, or the compared method) and ``metric`` (``l1``, ``cc``,
    ``colocalization_cosine``, ``colocalization_correlation``, ``seconds``, ``memory_mb``): ``value`` and ``note``.

    Raises
    ------
    ValueError
        If there is no such task.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> rows = lm.bench.decomposition_reference("stnet_to_her2st")
    >>> rows[rows["model"] == "CONCH + UNI"][["metric", "value"]].to_string(index=False, header=False).split()
    ['l1', '0.55', 'cc', '0.40']
    """
    file = resources.files("lemon_sc.bench").joinpath("decomposition_rows.csv")
    with file.open(encoding="utf-8") as lines:
        table = pd.read_csv(lines, keep_default_na=False)
    if task is None:
        return table
    return table[table["task"] == one_of("task", task, TASKS)].reset_index(drop=True)
