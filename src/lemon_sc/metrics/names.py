"""Names of groups: patients, slides, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lemon_sc._core.errors import bad_value

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def as_names(parameter: str, values: ArrayLike) -> NDArray[np.str_]:
    """Names as text; an error where one is missing, which would be a group of that name otherwise.

    Parameters
    ----------
    parameter
        What the user calls them.
    values
        Names or numbers.

    Returns
    -------
    Text, of the same shape.

    Raises
    ------
    ValueError
        If one is NaN or None.
    """
    missing = np.asarray(pd.isna(np.asarray(values, dtype=object)))
    if missing.any():
        fix = "Leave these rows out."
        raise bad_value(parameter, must="name every row", got=f"{int(missing.sum())} missing", fix=fix)
    return np.asarray(values).astype(str)
