"""SHA-256 of the files a corpus is made of, remembered while it is being built."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType


class FileDigests:
    """Digests by file, size and time of change, kept in a file so that a run that goes on reads no slide twice.

    Parameters
    ----------
    path
        Where to keep them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                try:
                    self.known.update(json.loads(line))
                except json.JSONDecodeError:  # the line that a crash cut off
                    continue
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.known:
            self.path.unlink(missing_ok=True)

    def forget(self) -> None:
        """The corpus is whole: remove the file."""
        self.known = {}

    def of(self, paths: Iterable[Path]) -> dict[str, str]:
        """SHA-256 by name. A folder stands for all its files, in the order of their names."""
        found = {}
        for path in paths:
            if not path.exists():
                msg = f"There is nothing at '{path}'."
                raise FileNotFoundError(msg)
            name = path.name if path.name not in found else f"{path.parent.name}/{path.name}"
            found[name] = self._folder(path) if path.is_dir() else self._one(path)
        return found

    def _folder(self, folder: Path) -> str:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(folder).as_posix()} {self._one(file)}\n".encode())
        return digest.hexdigest()

    def _one(self, path: Path) -> str:
        facts = path.stat()
        key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if key not in self.known:
            with path.open("rb") as file:
                self.known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._file.write("\n" + json.dumps({key: self.known[key]}) + "\n")  # after what a crash has cut off, too
            self._file.flush()
        return self.known[key]
