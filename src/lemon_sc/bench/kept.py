"""Files that several workers may write at once: each is whole or absent, and the last writer wins."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO


def keep(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside its place, have it reach the disk, and put it there.

    Parameters
    ----------
    path
        The file; its folder is made.
    write
        Writes the content to an open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
