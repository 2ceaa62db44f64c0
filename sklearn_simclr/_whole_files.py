"""Files that are whole or not there, however their writers end."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which neither removes nor replaces a file that is open
    fcntl = None

_TEMPORARY = ".sklearn_simclr.tmp"
_ABANDONED_AFTER = 60  # seconds; a writer on Windows closes its file just before it renames it


@contextlib.contextmanager
def replacing(path: Path) -> Iterator:
    """Open a file for bytes, beside `path`, that takes its place at the end.

    That is when it has reached the disk, so that there is a whole file at every moment. An error
    leaves what was there before.
    """
    temporary = _free_name(path.parent, path.name)
    file = _create_locked(temporary)
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()
        os.replace(temporary, path)
    finally:
        for clean_up in (file.close, temporary.unlink):
            with contextlib.suppress(OSError):
                clean_up()
    _sync_directory(path.parent)


def try_writing(path: Path) -> None:
    """Create the directory if it is missing and, briefly, the file from which `path` is made.

    Raises what prevents it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    trial = _free_name(path.parent, path.name)
    trial.touch(exist_ok=False)
    trial.unlink(missing_ok=True)  # another process may have swept it


def sweep(directory: Path) -> None:
    """Remove what `replacing` has left in killed processes: files that nobody holds a lock on."""
    for temporary in directory.glob(f"*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if fcntl is None:
                if time.time() - temporary.stat().st_mtime > _ABANDONED_AFTER:
                    temporary.unlink()
                continue
            with open(temporary, "r+b") as file:  # NFS locks what is open for writing only
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                temporary.unlink()


def _free_name(directory: Path, stem: str) -> Path:
    return directory / f"{stem}.{secrets.token_hex(8)}{_TEMPORARY}"


def _create_locked(path: Path):
    """Create a file that is locked until it is closed, be it by the end of the process."""
    while True:
        file = open(path, "xb")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # where the file system has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file
        file.close()  # it was swept before it was locked


def _sync_directory(directory: Path) -> None:
    """Have the name of a file reach the disk too, where that is known."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
