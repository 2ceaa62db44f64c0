"""Files that are whole or not there, however their writers end."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None

_TEMPORARY = ".sklearn_simclr.tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator:
    """Open a file for bytes, beside `path`, that takes its place at the end.

    That is when it has reached the disk, so that there is a whole file at every moment. An error
    leaves what was there before.
    """
    temporary = _free_name(path.parent, path.name)
    file = _create_locked(temporary)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # an open file cannot be renamed there
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    _sync_directory(path.parent)


def try_writing(directory: Path) -> None:
    """Create a directory if it is missing and, briefly, a file in it; raises what prevents it."""
    directory.mkdir(parents=True, exist_ok=True)
    trial = _free_name(directory, "trial")
    trial.touch(exist_ok=False)
    trial.unlink(missing_ok=True)  # another process may have swept it


def sweep(directory: Path) -> None:
    """Remove what `replacing` has left in killed processes: files that nobody holds a lock on."""
    for temporary in directory.glob(f"*{_TEMPORARY}"):
        with contextlib.suppress(OSError), open(temporary, "rb") as file:
            if fcntl is not None:
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
        if os.fstat(file.fileno()).st_nlink:
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
