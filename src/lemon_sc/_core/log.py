"""The package's logger and progress bar. Nothing is configured on import."""

from __future__ import annotations

import importlib.util
import logging

if importlib.util.find_spec("ipywidgets"):
    from tqdm.auto import tqdm
else:  # tqdm.auto would warn in every notebook that widgets are not installed
    from tqdm import tqdm

logger = logging.getLogger("lemon_sc")


def progress(*, total: int, desc: str, unit: str = "nuclei") -> tqdm:
    """Progress bar for a long job; silent for work that ends within a second.

    Parameters
    ----------
    total
        How many there are to do.
    desc
        What is being done.
    unit
        What is counted.

    Returns
    -------
    The bar, to be used in a ``with``.
    """
    return tqdm(total=total, desc=desc, unit=f" {unit}", unit_scale=True, delay=1.0, leave=False)
