"""Files that a killed training goes on from: whole or not there, and read without running code."""

import contextlib
import hashlib
import io
import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None

_MAGIC, _VERSION = b"sklearn_simclr checkpoint ", b"1\n"
_DIGEST_BYTES = 32
_SUFFIX, _TEMPORARY = ".ckpt", ".ckpt.tmp"
_STRUCTURE = "structure"  # the entry of the archive that says where its arrays belong
_SHARE = 20  # what is worked between two checkpoints, in multiples of what the first of them took


def prepare_directory(directory) -> Path:
    """Make a directory for checkpoints if it is missing, and try to write there.

    Raises
    ------
    ValueError
        If that is impossible.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        trial = directory / f"{secrets.token_hex(8)}{_TEMPORARY}"
        trial.touch(exist_ok=False)
        trial.unlink(missing_ok=True)  # another process may have swept it
    except (OSError, ValueError) as error:
        raise ValueError(
            f"checkpoint_dir={str(directory)!r} is no directory that can be written to: "
            f"{type(error).__name__}: {error}. Pass another directory, or checkpoint_dir=None."
        ) from error
    return directory


class CheckpointStore:
    """The checkpoint of one training, among those of others.

    Parameters
    ----------
    directory : path
        Where it lies, beside those of other trainings. Any number of processes may share it.
    key : str
        What tells this training from all others; the stem of the file's name.

    Notes
    -----
    The file is a line that names its format, an archive of arrays as `numpy.savez` writes it, and
    a digest of both. It is written under another name first, and replaces the one before only when
    it has reached the disk, so that there is a whole one at every moment. Such other names that a
    killed process has left are removed: those that nobody holds a lock on.
    """

    def __init__(self, directory, key: str) -> None:
        self.path = Path(directory) / f"{key}{_SUFFIX}"
        self._due = -np.inf  # when to save again, by the monotonic clock
        self._has_warned = False

    def load(self) -> dict | None:
        """Return the state that was saved last, None if there is none.

        Raises
        ------
        ValueError
            If the file is damaged, of another format or another training, or cannot be read.
        """
        self._sweep()
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.refusal(f"cannot be read: {type(error).__name__}: {error}") from error
        if not content.startswith(_MAGIC):
            raise self.refusal("is not a checkpoint, or its beginning is damaged")
        if not content.startswith(_MAGIC + _VERSION):
            raise self.refusal("is of another version of its format, or damaged")
        body, digest = memoryview(content)[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
            raise self.refusal("is damaged: its content does not have the digest that it names")
        try:
            key, state = _read_archive(body[len(_MAGIC + _VERSION) :])
        except Exception as error:
            raise self.refusal(
                f"holds no state of a training: {type(error).__name__}: {error}"
            ) from error
        if key != self.path.stem:
            raise self.refusal("is that of another training under a changed name")
        return state

    def refusal(self, problem: str) -> ValueError:
        """Make the error for a checkpoint that cannot be gone on from."""
        return ValueError(
            f"The checkpoint {str(self.path)!r} {problem}. Delete it, or move it away, to train "
            "from the start."
        )

    def offer(self, make_state: Callable[[], dict], *, last: bool) -> None:
        """Save a state if it is the last one, or if enough time has passed since the one before.

        Saving then takes at most a twentieth of the time. The first state is always saved. If it
        fails, a warning says so, once, and the checkpoint before is left as it was.
        """
        started = time.monotonic()
        if not last and started < self._due:
            return
        try:
            self.save(make_state())
        except OSError as error:
            self._warn(error)
        finished = time.monotonic()
        self._due = finished + _SHARE * (finished - started)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            warnings.warn(
                f"The checkpoint {str(self.path)!r} could not be written: {type(error).__name__}: "
                f"{error}. The training goes on without it and tries again after later epochs.",
                UserWarning,
                stacklevel=7,  # the caller of fit
            )
        self._has_warned = True

    def save(self, state: dict) -> None:
        """Replace the checkpoint, which stays as it is if that fails.

        Parameters
        ----------
        state : dict
            Arrays, plain values, and lists and dicts of these.

        Raises
        ------
        OSError
            If the file cannot be written.
        TypeError
            If the state holds something else.
        """
        arrays, structure = [], {"key": self.path.stem}
        structure["state"] = _take_arrays(state, arrays)
        text = np.frombuffer(json.dumps(structure).encode(), np.uint8)
        with _temporary(self.path) as (file, name):
            sink = _HashingSink(file)
            sink.write(_MAGIC + _VERSION)
            named = {f"array{number}": array for number, array in enumerate(arrays)}
            np.savez(sink, **{_STRUCTURE: text}, **named)
            file.write(sink.digest())
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # an open file cannot be renamed there
            os.replace(name, self.path)
        _sync_directory(self.path.parent)

    def _sweep(self) -> None:
        """Remove what writers have left that were killed, whatever training they were of."""
        for name in self.path.parent.glob(f"*{_TEMPORARY}"):
            with contextlib.suppress(OSError), open(name, "rb") as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                name.unlink()


class _HashingSink(io.RawIOBase):
    """Passes on what is written to it, and keeps a digest of it; cannot seek."""

    def __init__(self, file) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def write(self, data) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def writable(self) -> bool:
        return True

    def digest(self) -> bytes:
        return self._hash.digest()


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple]:
    """Open a locked file beside `path`; it is gone afterwards, unless it was renamed."""
    name = path.with_name(f"{path.stem}.{secrets.token_hex(8)}{_TEMPORARY}")
    file = _create_locked(name)
    with file:
        try:
            yield file, name
        finally:
            with contextlib.suppress(OSError):
                name.unlink()


def _create_locked(name: Path):
    """Create a file that is locked until it is closed, be it by the end of the process."""
    while True:
        file = open(name, "xb")
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


def _take_arrays(value, arrays: list[np.ndarray]):
    """Put the arrays of a state into a list, and return the rest for JSON."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {"dict": [[key, _take_arrays(item, arrays)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_take_arrays(item, arrays) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"A checkpoint cannot hold {type(value).__name__}: {value!r}.")


def _put_arrays(value, arrays: list[np.ndarray]):
    """Undo `_take_arrays`."""
    if isinstance(value, list):
        return [_put_arrays(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    return {key: _put_arrays(item, arrays) for key, item in value["dict"]}


def _read_archive(body: memoryview) -> tuple[str, dict]:
    """Return the key and the state of an archive that `CheckpointStore.save` wrote."""
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        structure = json.loads(archive[_STRUCTURE].tobytes())
        arrays = [archive[f"array{number}"] for number in range(len(archive.files) - 1)]
    return structure["key"], _put_arrays(structure["state"], arrays)
