"""The package's logger and progress bar. Nothing is configured on import."""

from __future__ import annotations

import logging

from tqdm.auto import tqdm

logger = logging.getLogger("lemon_sc")


def progress(*, total: int, desc: str, unit: str = "nuclei") -> tqdm:
    """Progress bar for a long job; silent for work that ends within a second."""
    return tqdm(total=total, desc=desc, unit=f" {unit}", unit_scale=True, delay=1.0, leave=False)
