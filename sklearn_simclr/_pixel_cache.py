"""Decoded pixels in files on disk: written at once or not at all, checked before they are used.

Such a file holds the rows one after the other, then a record of them in JSON, then the length and
the digest of that record and a mark.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sklearn_simclr._whole_files import replacing, sweep

_TAIL = struct.Struct("<Q40s16s")
_MARK = b"sklearn_simclr 2"


def prepare_folder(folder: str | os.PathLike) -> None:
    """Make the folder for decoded pixels if it is missing.

    Raises
    ------
    ValueError
        If that is impossible.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cache_dir={str(folder)!r} is no folder, and cannot be made one: "
            f"{type(error).__name__}: {error}. Pass another folder, or cache_dir=None."
        ) from error


def cache_path(folder: str | os.PathLike, paths: list[str], image_shape: tuple) -> Path:
    """Where the pixels of these files, brought to this shape, belong.

    The name changes with the name, size or time of change of any file.
    """
    key = hashlib.blake2b(repr(image_shape).encode(), digest_size=20)
    for path in paths:
        size = changed = None
        with contextlib.suppress(OSError, ValueError):  # bad files are reported elsewhere
            status = os.stat(path)
            size, changed = status.st_size, status.st_mtime_ns
        key.update(repr((os.path.abspath(path), size, changed)).encode())
    return Path(folder) / f"{key.hexdigest()}.pixels"


def open_pixels(path: Path, n_values: int) -> tuple[np.memmap, dict[int, str]] | None:
    """Return the rows (n, n_values) of a file and the reasons why other rows are missing.

    None if there is no such file, or it is damaged or not one of ours.
    """
    try:
        rows, record = _map(path)
        if rows.shape[1] != n_values or content_digest(rows) != record["digest"]:
            return None
        return rows, {int(number): reason for number, reason in record["bad"].items()}
    except (OSError, ValueError):
        return None


def write_pixels(
    path: Path, blocks: Iterable[np.ndarray], bad: dict[int, str]
) -> np.memmap | np.ndarray:
    """Write the rows of all blocks, and then `bad` as the blocks have left it; return the rows."""
    sweep(path.parent)
    content, n_rows, text = hashlib.blake2b(digest_size=20), 0, b""
    try:
        with replacing(path) as file:
            for block in blocks:
                file.write(block)
                content.update(block)
                n_rows, n_values = n_rows + len(block), block.shape[1]
            record = {"shape": [n_rows, n_values], "digest": content.hexdigest(), "bad": bad}
            text = json.dumps(record).encode()
            file.write(text + _TAIL.pack(len(text), content_digest(text).encode(), _MARK))
    except PermissionError:
        # Windows does not replace a file that another process, which has just written it, maps.
        with contextlib.suppress(OSError, ValueError):
            rows, record = _map(path)
            if json.dumps(record).encode() == text:
                return rows
        raise
    if not n_rows:
        path.unlink(missing_ok=True)  # nothing worth keeping
        return np.empty((0, n_values), np.uint8)
    return _map(path)[0]


def content_digest(content: np.ndarray | bytes) -> str:
    """Return a hash of all bytes, in hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def _map(path: Path) -> tuple[np.memmap, dict]:
    """Map the rows of a file into memory, and read its record; errors if it is not one of ours."""
    with open(path, "rb") as file:
        file.seek(-_TAIL.size, os.SEEK_END)
        length, digest, mark = _TAIL.unpack(file.read())
        n_bytes = file.tell() - _TAIL.size - length
        if mark != _MARK or n_bytes < 0:
            raise ValueError(f"{path} is not a file of decoded pixels.")
        file.seek(n_bytes)
        text = file.read(length)
    if content_digest(text).encode() != digest:
        raise ValueError(f"{path} holds a damaged record.")
    record = json.loads(text)
    n_rows, n_values = record["shape"]
    if n_rows * n_values != n_bytes:
        raise ValueError(f"{path} holds {n_bytes} values, not {n_rows} x {n_values}.")
    return np.memmap(path, np.uint8, "r", shape=(n_rows, n_values)), record
