"""Xenium's cell ids: a 32-bit prefix and a suffix, as text such as ``"ffkpbaba-1"``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

HEX, LETTERS = "0123456789abcdef", "abcdefghijklmnop"


def cell_id_strings(prefix: NDArray[np.unsignedinteger], suffix: int = 1) -> NDArray[np.object_]:
    """The text form: eight hexadecimal digits written as a..p, a dash, the suffix."""
    table = str.maketrans(HEX, LETTERS)
    return np.array([f"{int(p):08x}".translate(table) + f"-{suffix}" for p in prefix], dtype=object)


def split_cell_ids(ids: Iterable[str]) -> NDArray[np.uint32]:
    """Prefix and suffix of ids in text form, (n, 2)."""
    table = str.maketrans(LETTERS, HEX)
    parts = (i.split("-") for i in ids)
    return np.array([(int(prefix.translate(table), 16), int(suffix)) for prefix, suffix in parts], dtype=np.uint32)
