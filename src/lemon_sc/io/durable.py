"""Files and folders that are whole or absent: locks, renames, and errors of the disk in words."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import filelock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO


class StoreBusyError(RuntimeError):
    """Another run is writing the same store."""


def sync(path: Path) -> None:
    """Have a file, and its name in its folder, reach the disk.

    Parameters
    ----------
    path
        The file.
    """
    for target in (path, path.parent):
        if os.name == "nt" and target.is_dir():
            continue  # Windows has no handle to sync a folder by
        handle = os.open(target, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def hidden(path: Path, what: str) -> Path:
    """Name beside `path` for what is not finished.

    Parameters
    ----------
    path
        File or folder to be written.
    what
        Ending that tells such names apart: ``lock``, ``partial``, ``old``.

    Returns
    -------
    The path; nothing is made there.
    """
    return path.with_name(f".{path.name}.{what}")


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader finds the old one or the new one and never a part.

    Parameters
    ----------
    path
        The file.
    content
        Its bytes, or what writes them to an open file.

    Raises
    ------
    OSError
        The disk is full, or cannot be written to; the old file is as it was.
    """
    part = hidden(path, "part")
    try:
        with part.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch says the latter where the disk is full
        part.unlink(missing_ok=True)
        msg = f"'{path}' cannot be written ({error}). The one that was there is as it was. Make room, then go on."
        raise OSError(msg) from error


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Errors of the disk, with the path that the user gave and what to do.

    Parameters
    ----------
    path
        What is being written, as the user named it.

    Yields
    ------
    Nothing.

    Raises
    ------
    OSError
        What the block raises, in those words.
    """
    try:
        yield
    except OSError as error:
        msg = (
            f"'{path}' cannot be written ({error.strerror or error}). A store that was there is as it was; what is "
            "finished of the new one is kept beside it, and the same call goes on from there. Make room, or name "
            "another folder."
        )
        raise OSError(error.errno, msg) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a store; a crash lets go of it.

    Parameters
    ----------
    path
        The store; the lock lies beside it.

    Yields
    ------
    Nothing.

    Raises
    ------
    StoreBusyError
        If another process holds the lock.
    OSError
        If no lock can be made there.
    """
    lock_path = hidden(path, "lock")
    lock = filelock.FileLock(lock_path, timeout=0)
    with disk(path):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            if not lock_path.exists():  # then nobody holds it: it cannot be made
                raise OSError(errno.EACCES, "no lock can be made there") from error
            msg = f"Another run is writing '{path}'. Wait for it to end, or choose another path."
            raise StoreBusyError(msg) from error
    try:
        yield
    finally:
        lock_path.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and tries again
        lock.release()


def swap(new: Path, path: Path) -> None:
    """Put a finished folder in its place; the older one goes only once the new one is there.

    Parameters
    ----------
    new
        The folder, on the same disk.
    path
        Its place.
    """
    old = hidden(path, "old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
