"""Checkpoints that a killed run resumes from: complete or absent, read without running code."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sklearn_simclr._warnings import warn_caller
from sklearn_simclr._whole_files import replacing, sweep, try_writing

_MAGIC, _VERSION = b"sklearn_simclr checkpoint ", b"1\n"
_DIGEST_BYTES = 32
_SUFFIX = ".ckpt"
_STRUCTURE = "structure"  # the entry of the archive that says where its arrays belong
_SHARE = 50  # time from one checkpoint to the next, in multiples of the time the first one took


def prepare_directory(directory) -> None:
    """Make a directory for checkpoints if it is missing, and try to write there.

    Raises
    ------
    ValueError
        If that is impossible.
    """
    try:
        try_writing(CheckpointStore(directory, "0" * 32).path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"checkpoint_dir={str(directory)!r} is no directory that can be written to: "
            f"{type(error).__name__}: {error}. Pass another directory, or checkpoint_dir=None."
        ) from error


class CheckpointStore:
    """The checkpoint of one training run, among those of others.

    Parameters
    ----------
    directory : path
        Where it lies, beside those of other runs. Any number of processes may share it.
    key : str
        What tells this run from all others; the stem of the file's name.

    Notes
    -----
    The file is a line that names its format, an archive of arrays as `numpy.savez` writes it, and
    a digest of both. It is whole or not there, however its writer ends.
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
            If the file is damaged, of another format or another run, or cannot be read.
        """
        sweep(self.path.parent)
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
        """Make the error for a checkpoint that no run can resume from."""
        return ValueError(
            f"The checkpoint {str(self.path)!r} {problem}. Delete it, or move it away, to train "
            "from the start."
        )

    def offer(self, make_state: Callable[[], dict], *, last: bool) -> None:
        """Save a state if it is the last one, or if enough time has passed since the one before.

        Saving then takes at most a fiftieth of the time. The first state is always saved. If it
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
            warn_caller(
                f"The checkpoint {str(self.path)!r} could not be written: {type(error).__name__}: "
                f"{error}. The training goes on without it and tries again after later epochs."
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
        with replacing(self.path) as file:
            sink = _HashingSink(file)
            sink.write(_MAGIC + _VERSION)
            named = {f"array{number}": array for number, array in enumerate(arrays)}
            np.savez(sink, **{_STRUCTURE: text}, **named)
            file.write(sink.digest())


class _HashingSink(io.RawIOBase):
    """Passes on what is written to it, and keeps a digest of it; cannot seek."""

    def __init__(self, file) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def write(self, data) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> bytes:
        return self._hash.digest()


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
