"""Image files as X: rows of pixels from paths, in memory, cached on disk, or read when needed."""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from joblib import effective_n_jobs

from sklearn_simclr._decoding import (
    LARGEST_SIDE,
    Header,
    PixelBudget,
    decode,
    explain,
    quiet_pillow,
    read_header,
)
from sklearn_simclr._pixel_cache import cache_path, open_pixels, prepare_folder, write_pixels

_KEPT_BYTES = 2**30  # of decoded pixels that are kept in memory
_FILE_SIDE = 128  # of images that have to be resized, without an image_size
_BLOCK_BYTES = 2**26  # of decoded pixels that are checked at a time
_PARTS_A_THREAD = 4  # that work is divided into, for threads that finish early
_LISTED = 20  # bad files in a message


@dataclass(frozen=True)
class ImageFiles:
    """Image files that can be read."""

    rows: "np.ndarray | FileRows"  # (n, h * w * c), uint8
    image_shape: tuple[int, int, int]  # (h, w, c)
    kept: np.ndarray  # (n,) indices of the paths that the rows belong to
    left_out: str  # which paths have no row, and why; empty if all have one

    def __len__(self) -> int:
        return len(self.rows)


class FileRows:
    """Rows of pixels that are decoded whenever they are needed, (n, h * w * c) of uint8."""

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: list[str], image_shape: tuple, decoder: "_Decoder", digest: str):
        self.shape = len(paths), math.prod(image_shape)
        self.digest = digest  # of all values, as `Samples.digest` computes it for arrays
        self._paths = paths
        self._image_shape = image_shape
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Decode the files at `index`, integers (k,); returns (k, h * w * c)."""
        paths = [self._paths[number] for number in index]
        with quiet_pillow:
            pixels, bad = self._decoder.pixels(paths, self._image_shape)
        if bad:
            raise ValueError(
                f"{describe_bad(paths, bad)}\nThey could be read at first: leave the files alone "
                "while they are in use, or pass cache_dir."
            )
        return pixels


class _Decoder:
    """Decodes files in a number of threads, with one in the caller's thread."""

    def __init__(self, n_jobs: int | None):
        self._n_threads = effective_n_jobs(n_jobs)
        self._pool = None
        if self._n_threads > 1:
            self._pool = ThreadPoolExecutor(self._n_threads, "sklearn_simclr_files")
        self._budget = PixelBudget()

    def headers(self, paths: list[str]) -> tuple[dict[int, Header], dict[int, str]]:
        """Return the headers by the index of the path, and what is wrong with the other paths."""
        return self._try(lambda number: read_header(paths[number]), len(paths))

    def pixels(self, paths: list[str], image_shape: tuple) -> tuple[np.ndarray, dict[int, str]]:
        """Return rows (n, h * w * c) of pixels, and what is wrong with those that have none."""
        rows = np.empty((len(paths), math.prod(image_shape)), np.uint8)

        def fill(number: int) -> None:
            rows[number] = decode(paths[number], image_shape, self._budget)

        return rows, self._try(fill, len(paths))[1]

    def blocks(
        self, paths: list[str], image_shape: tuple, bad: dict[int, str]
    ) -> Iterator[np.ndarray]:
        """Yield the pixels of all readable files in order; record the others in `bad`."""
        n_rows = max(1, _BLOCK_BYTES // math.prod(image_shape))
        for first in range(0, len(paths), n_rows):
            rows, found = self.pixels(paths[first : first + n_rows], image_shape)
            bad |= {first + number: reason for number, reason in found.items()}
            yield np.delete(rows, list(found), axis=0) if found else rows

    def _try(self, function: Callable[[int], object], n: int) -> tuple[dict, dict[int, str]]:
        """Call a function with 0 to n - 1; return its results, and why it failed where it did."""

        def attempt(numbers: range) -> tuple[dict, dict]:
            results, bad = {}, {}
            for number in numbers:
                try:
                    results[number] = function(number)
                except Exception as error:
                    bad[number] = explain(error)
            return results, bad

        if self._pool is None:
            return attempt(range(n))
        size = max(1, -(-n // (_PARTS_A_THREAD * self._n_threads)))
        results, bad = {}, {}
        for more, more_bad in self._pool.map(
            attempt, [range(first, min(first + size, n)) for first in range(0, n, size)]
        ):
            results |= more
            bad |= more_bad
        return results, bad


def as_paths(X) -> list[str] | None:
    """Return the paths that X holds, None if it is not a sequence or column of str or paths.

    Raises
    ------
    ValueError
        If X is a single path, or holds paths and other values.

    Examples
    --------
    >>> from pathlib import PurePosixPath
    >>> from sklearn_simclr._files import as_paths
    >>> as_paths([PurePosixPath("cats/1.jpg"), "cats/2.jpg"])
    ['cats/1.jpg', 'cats/2.jpg']
    """
    if isinstance(X, str | bytes | os.PathLike):
        raise ValueError(
            f"X must be a sequence of the paths of image files, got the single path {str(X)!r}. "
            "Pass [path], or sklearn_simclr.datasets.load_image_paths(folder).data."
        )
    values = _column(X)
    of_paths = [isinstance(value, str | os.PathLike) for value in values]
    if not any(of_paths):
        return None
    if not all(of_paths):
        number = of_paths.index(False)
        raise ValueError(
            f"X must hold the paths of image files only, but row {number} is {values[number]!r}. "
            "Leave it out."
        )
    return [str(os.fsdecode(value)) for value in values]


def _column(X) -> Sequence:
    """Return the values of a sequence or of a single column, none if X is neither."""
    if isinstance(X, list | tuple):
        if all(isinstance(value, list | tuple) and len(value) == 1 for value in X):
            return [value[0] for value in X]
        return X
    shape = getattr(X, "shape", ())
    if not isinstance(shape, tuple) or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        return ()
    if not isinstance(X, np.ndarray):
        if not hasattr(X, "to_numpy"):  # neither a frame nor a series
            return ()
        X = X.to_numpy()
    return X.ravel().tolist() if X.dtype.kind in "OUT" else ()


def read_files(
    paths: list[str],
    *,
    image_shape: tuple[int, int, int] | None = None,
    image_size: int | None = None,
    n_jobs: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    skip_bad: bool = False,
) -> ImageFiles:
    """Decode every file once, so that all bad ones are known before any further work.

    Parameters
    ----------
    paths : list of str
    image_shape : tuple of (int, int, int), default=None
        (h, w, c) to convert the images to; None: it is chosen to suit them.
    image_size : int, default=None
        Side of the squares to resize images to if they differ in size or are large.
    n_jobs : int, default=None
        Number of threads, as in joblib.
    cache_dir : path, default=None
        Folder for decoded pixels.
    skip_bad : bool, default=False
        Whether to leave out the files that cannot be read.

    Raises
    ------
    ValueError
        If files cannot be read and are not to be skipped, if none can be read, or if `cache_dir` is
        not a folder and cannot be created.
    """
    if cache_dir is not None:
        prepare_folder(cache_dir)
    decoder, headers, bad = _Decoder(n_jobs), {}, {}
    with quiet_pillow:
        if image_shape is None:
            headers, bad = decoder.headers(paths)
        while len(bad) < len(paths):
            kept = [number for number in range(len(paths)) if number not in bad]
            shape = image_shape or _choose_shape([headers[number] for number in kept], image_size)
            folder = cache_dir if skip_bad or not bad else None  # else only errors are sought
            rows, found = _read_rows([paths[number] for number in kept], shape, decoder, folder)
            bad |= {kept[number]: reason for number, reason in found.items()}
            kept = [number for number in kept if number not in bad]
            if not (found and kept and skip_bad) or image_shape is not None:
                break
            if shape == _choose_shape([headers[number] for number in kept], image_size):
                break  # otherwise a file that is left out has influenced the shape
    if bad and (not skip_bad or len(bad) == len(paths)):
        raise ValueError(
            f"{describe_bad(paths, bad)}\nFix these files or leave them out of X. With "
            "on_bad_files='skip', fit continues without them if others are left; transform and "
            "fit_transform do not."
        )
    left_out = describe_bad(paths, bad) if bad else ""
    return ImageFiles(rows, shape, np.array(kept), left_out)


def describe_bad(paths: list[str], bad: dict[int, str]) -> str:
    """List the files that cannot be read, and why; only the first of very many."""
    listed = [f"\n  {paths[number]}: {bad[number]}" for number in sorted(bad)[:_LISTED]]
    if len(bad) > _LISTED:
        listed.append(f"\n  and {len(bad) - _LISTED} more")
    return f"{len(bad)} of {len(paths)} image files in X cannot be read:{''.join(listed)}"


def _choose_shape(headers: list[Header], image_size: int | None) -> tuple[int, int, int]:
    """Shape (h, w, c) that suits the images: their own if they share it and are small."""
    channels = 1 if all(header.is_grey for header in headers) else 3
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(map(max, sizes)) <= LARGEST_SIDE:
        return (*sizes.pop(), channels)
    side = image_size or _FILE_SIDE
    return side, side, channels


def _read_rows(
    paths: list[str],
    image_shape: tuple[int, int, int],
    decoder: _Decoder,
    cache_dir: str | os.PathLike | None,
) -> tuple[np.ndarray | FileRows, dict[int, str]]:
    """Decode all files, and keep their pixels where there is room; also return the bad ones."""
    bad: dict[int, str] = {}
    blocks = decoder.blocks(paths, image_shape, bad)
    n_values = math.prod(image_shape)
    if cache_dir is not None:
        path = cache_path(cache_dir, paths, image_shape)
        cached = open_pixels(path, n_values)
        if cached is not None:
            # A file may become readable without being changed, such as by its permissions.
            still_bad = decoder.pixels([paths[number] for number in cached[1]], image_shape)[1]
            if len(still_bad) == len(cached[1]):
                return cached
            del cached  # Windows does not replace a file that is mapped
        return write_pixels(path, blocks, bad), bad
    if len(paths) * n_values <= _KEPT_BYTES:
        rows, n_rows = np.empty((len(paths), n_values), np.uint8), 0
        for block in blocks:
            rows[n_rows : n_rows + len(block)] = block
            n_rows += len(block)
        return rows[:n_rows], bad
    content = hashlib.blake2b(digest_size=20)
    for block in blocks:
        content.update(block)
    good = [path for number, path in enumerate(paths) if number not in bad]
    return FileRows(good, image_shape, decoder, content.hexdigest()), bad
