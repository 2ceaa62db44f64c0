"""Every kind of X to batches on the device."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from numbers import Integral

import numpy as np
import torch
from sklearn import get_config
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from torch import Generator, Tensor

from sklearn_simclr._placement import pinned, placed

_CHANNEL_COUNTS = (1, 3, 4)  # an axis of such a length is taken for the channels
_LARGEST_UNIT_PIXEL = 2  # room for interpolation that overshoots [0, 1]
_BLOCK_VALUES = 2**22  # how many values are read at a time where all are read once
_BATCHES_AHEAD = 2  # how many batches are read while another is worked on


@dataclass(frozen=True)
class Samples:
    """Rows of X and what they mean; gives batches on the device.

    Images come out as float (n, c, h, w) with the values of `pixel_range` brought to [0, 1],
    vectors as float (n, d), unchanged. The rows are read batch by batch and never copied whole, but
    for those that the memory of a GPU holds: they may lie in a file.
    """

    rows: np.ndarray  # (n, ...) of real numbers, or what is indexed alike and gives arrays, tensors
    image_shape: tuple[int, int, int] | None  # (h, w, c)
    channels_first: bool
    pixel_range: tuple[float, float] | None
    device: torch.device
    keeps_bytes: bool = False  # whether batches of images in bytes are left in bytes

    def __len__(self) -> int:
        return len(self.rows)

    def in_bytes(self) -> "Samples":
        """Return the same samples, whose batches are uint8 if the rows are, where it saves time."""
        is_bytes = self.rows.dtype == np.uint8 and self.pixel_range == (0.0, 255.0)
        return replace(self, keeps_bytes=True) if is_bytes and self.device.type == "cpu" else self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample of a batch: (c, h, w) or (d,)."""
        if self.image_shape is None:
            return self.rows.shape[1:]
        height, width, channels = self.image_shape
        return channels, height, width

    def batch(self, index: Tensor) -> Tensor:
        """Return the samples at `index`, an integer tensor on the CPU."""
        if self._resident is None:
            return self._placed(self._read(index))
        return self._scaled(self._resident[placed(index, self.device)])

    @property
    def noun(self) -> str:
        """What the samples are."""
        return "vectors" if self.image_shape is None else "images"

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the samples at each index, read ahead in a thread where reading takes time."""
        if self._is_at_hand or self._resident is not None:
            return map(self.batch, indices)
        return map(self._placed, _read_ahead(self._read, indices))

    def blocks(self) -> Iterator[Tensor]:
        """Yield all samples in their order, a few million values at a time."""
        return self.batches(_block_indices(self.rows))

    def digest(self) -> str:
        """Return a hash of all values and of what they mean, in hexadecimal digits."""
        content = getattr(self.rows, "digest", None) or _content_digest(self.rows)
        meaning = (content, len(self), self.input_shape, self.channels_first, self.pixel_range)
        return hashlib.blake2b(repr(meaning).encode(), digest_size=20).hexdigest()

    def _read(self, index: Tensor) -> Tensor:
        """Return the rows at `index` as they are, (k, values), uint8 or float32, where they lie."""
        return pinned(_plain(self.rows[index.numpy()]), self.device)

    def _placed(self, rows: Tensor) -> Tensor:
        return self._scaled(placed(rows, self.device))

    def _scaled(self, rows: Tensor) -> Tensor:
        """Turn rows (k, values) on the device into a batch, in memory of its own."""
        if not self.keeps_bytes:
            rows = rows.float()
        if self.image_shape is None:
            return rows
        if not self.keeps_bytes:
            low, high = self.pixel_range
            rows = rows.sub_(low).div_(high - low)
        if self.channels_first:
            return rows.view(-1, *self.input_shape)
        return rows.view(-1, *self.image_shape).permute(0, 3, 1, 2)  # channels last in memory

    @property
    def _is_at_hand(self) -> bool:
        """Whether the rows lie in the memory of the device."""
        if isinstance(self.rows, TensorRows):
            return self.rows.device.type == self.device.type
        return type(self.rows) is np.ndarray and self.device.type == "cpu"

    @cached_property
    def _resident(self) -> Tensor | None:
        """All rows (n, values) on the GPU, if half its free memory holds them."""
        if self.device.type != "cuda" or self._is_at_hand:
            return None
        dtype = torch.uint8 if self.rows.dtype == np.uint8 else torch.float32
        shape = len(self.rows), _row_values(self.rows)
        if math.prod(shape) * dtype.itemsize > torch.cuda.mem_get_info(self.device)[0] // 2:
            return None
        resident = torch.empty(shape, dtype=dtype, device=self.device)
        indices = _block_indices(self.rows)
        for index, rows in zip(indices, _read_ahead(self._read, indices), strict=True):
            resident[index[0] : index[-1] + 1] = placed(rows, self.device)
        return resident


class TensorRows:
    """Rows of a tensor, indexed as those of an array; they stay on its device.

    Parameters
    ----------
    tensor : Tensor of shape (n, ...)
        Of real numbers that NumPy has a type for.
    """

    def __init__(self, tensor: Tensor):
        self.tensor = tensor
        self.shape = tuple(tensor.shape)
        self.dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        self.device = tensor.device

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: np.ndarray) -> Tensor:
        """Copy the rows at `index`, whole numbers (k,)."""
        index = placed(torch.from_numpy(index), self.device)
        return self.tensor.index_select(0, index)


def _plain(rows: np.ndarray | Tensor) -> Tensor:
    """Bring rows to (k, values) of uint8 or float32, in C order; they may share memory."""
    if isinstance(rows, np.ndarray):
        dtype = np.uint8 if rows.dtype == np.uint8 else np.float32
        rows = torch.from_numpy(np.ascontiguousarray(rows, dtype=dtype))
    dtype = torch.uint8 if rows.dtype == torch.uint8 else torch.float32
    return rows.to(dtype).reshape(len(rows), _row_values(rows))


def _row_values(rows) -> int:
    return math.prod(rows.shape[1:])


def _block_indices(rows) -> tuple[Tensor, ...]:
    """Cut the numbers of all rows into blocks of a few million values."""
    return torch.arange(len(rows)).split(max(1, _BLOCK_VALUES // max(1, _row_values(rows))))


def _read_ahead(read: Callable[[Tensor], Tensor], indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield what is read at each index, in their order, while a thread reads the next ones."""
    with ThreadPoolExecutor(1, thread_name_prefix="sklearn_simclr") as thread:
        rest = iter(indices)
        pending = deque(thread.submit(read, index) for index in islice(rest, _BATCHES_AHEAD))
        try:
            while pending:
                rows = pending.popleft().result()
                pending.extend(thread.submit(read, index) for index in islice(rest, 1))
                yield rows
        finally:
            thread.shutdown(cancel_futures=True)


def _content_digest(rows: np.ndarray) -> str:
    """Return a hash of the values of all rows, row by row."""
    content = hashlib.blake2b(digest_size=20)
    for index in _block_indices(rows):
        content.update(_plain(rows[index.numpy()]).cpu().numpy())
    return content.hexdigest()


def stays_tensor(X) -> bool:
    """Whether X is a tensor, and scikit-learn's array API dispatch wants it to stay one."""
    return isinstance(X, Tensor) and get_config()["array_api_dispatch"]


def as_array(X):
    """Bring tensors, lists and the like to NumPy; leave frames and sparse matrices alone.

    Tensors stay tensors under scikit-learn's array API dispatch.

    Raises
    ------
    ValueError
        If the samples differ in shape, are complex or text, or have no values.
    TypeError
        If X is no sequence, such as a generator or a Bunch.
    """
    if isinstance(X, Tensor):
        if X.is_meta:
            raise ValueError("X is a tensor on the device 'meta', which holds no values.")
        if X.is_complex():
            raise ValueError(f"Complex data not supported: X is a tensor of {X.dtype}.")
        X = X.detach()
        X = X.float() if X.dtype == torch.bfloat16 else X
        return X if stays_tensor(X) else X.cpu().numpy()
    elif not hasattr(X, "shape"):
        try:
            if isinstance(X, list | tuple) and X and all(isinstance(x, Tensor) for x in X):
                return as_array(torch.stack(X))
            given, X = X, np.asarray(X)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"X must hold samples of one shape, got a ragged sequence ({error}). "
                "Bring all images to one size first."
            ) from error
        if X.ndim == 0 and X.dtype == object:
            raise TypeError(
                "X must be an array, a tensor, or a list of samples or paths; got a "
                f"{type(given).__name__}. Pass list(X) of a generator, X.data of a Bunch."
            )
    if _is_text(X):
        raise ValueError(
            "X must hold numbers, or the paths of image files in a single column of str or Path; "
            "got other text."
        )
    if getattr(X, "ndim", 0) == 1 and len(X) and np.ndim(_first(X)) > 0:
        raise ValueError(
            f"X is a {type(X).__name__} of {len(X)} arrays, which are no array of numbers. Pass "
            "np.stack(list(X)), if all are of one shape."
        )
    return X


def _is_text(X) -> bool:
    if isinstance(X, np.ndarray) and X.dtype.kind in "US":
        return True
    if getattr(X, "ndim", 0) != 1 or not len(X):
        return False
    return isinstance(_first(X), str)


def _first(X):
    return X.iloc[0] if hasattr(X, "iloc") else X[0]


def read_image_shape(
    shape: tuple[int, ...], image_shape: tuple[int, ...] | None, channel_axis: int
) -> tuple[int, int, int] | None:
    """Return (h, w, c) of the images in an X of this shape, None if it holds vectors.

    Raises
    ------
    ValueError
        If the shape is not that of images, or contradicts `image_shape` or `channel_axis`.
    """
    if image_shape is not None:
        image_shape = _check_image_shape(image_shape)
    if len(shape) <= 2:
        if image_shape is not None and len(shape) == 2 and np.prod(image_shape) != shape[1]:
            raise ValueError(
                f"image_shape={image_shape} needs rows of {np.prod(image_shape)} values, "
                f"but X has shape {shape}."
            )
        return image_shape
    if len(shape) == 3:
        found = (*shape[1:], 1)
    elif len(shape) == 4:
        found = _read_channels(shape, channel_axis)
    else:
        raise ValueError(
            "X must be vectors (n, d) or images (n, h, w), (n, h, w, c) or, with channel_axis=1, "
            f"(n, c, h, w); got shape {shape}."
        )
    if image_shape is not None and image_shape != found:
        raise ValueError(
            f"image_shape={image_shape} describes the rows of a 2-D X, but X has shape {shape}, "
            f"images of {found}. Leave image_shape=None."
        )
    return found


def _check_image_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(image_shape) not in (2, 3) or not all(
        isinstance(side, Integral) and side > 0 for side in image_shape
    ):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), whole numbers > 0; "
            f"got {image_shape!r}."
        )
    return (*map(int, image_shape), 1)[:3]


def _read_channels(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int]:
    first, last = shape[1] in _CHANNEL_COUNTS, shape[3] in _CHANNEL_COUNTS
    if channel_axis == -1 and first and not last:
        raise ValueError(
            f"X of shape {shape} looks as if the channels came first, but channel_axis=-1 says "
            "last. Pass channel_axis=1."
        )
    if channel_axis == 1 and last and not first:
        raise ValueError(
            f"X of shape {shape} looks as if the channels came last, but channel_axis=1 says "
            "first. Pass channel_axis=-1."
        )
    return shape[1:] if channel_axis == -1 else (*shape[2:], shape[1])


def is_streamable(X) -> bool:
    """Whether X is an array or tensor of samples that can be read block by block as it is."""
    if isinstance(X, Tensor):
        return X.ndim >= 2
    return type(X) in (np.ndarray, np.memmap) and X.ndim >= 2 and X.dtype.kind in "biuf"


def read_extremes(rows: np.ndarray | TensorRows, estimator) -> tuple[float, float]:
    """Return the smallest and the largest value, as float32; of uint8, those that it can hold.

    Raises
    ------
    ValueError
        If a value is not finite as float32, in scikit-learn's words for this estimator.
    """
    if rows.dtype == np.uint8:
        return 0.0, 255.0
    extremes, dtype = [], np.float32
    if isinstance(rows, TensorRows):
        rows, dtype = rows.tensor, torch.float32
    for index in _block_indices(rows):
        block = rows[index[0] : index[-1] + 1]
        block = block.reshape(len(block), _row_values(block))
        block = check_array(block, dtype=dtype, estimator=estimator, input_name="X")
        extremes += [float(block.min()), float(block.max())]
    return min(extremes), max(extremes)


def largest_byte(rows: np.ndarray | TensorRows, enough: int) -> int:
    """Return the largest value of uint8, or the first to be found that is larger than `enough`."""
    values, largest = getattr(rows, "tensor", rows), 0
    for index in _block_indices(rows):
        largest = max(largest, int(values[index[0] : index[-1] + 1].max()))
        if largest > enough:
            break
    return largest


def read_pixel_range(dtype: np.dtype, extremes: tuple[float, float]) -> tuple[float, float]:
    """Return the values that stand for 0 and 1: those of the dtype, of [0, 1], or the extremes."""
    low, high = extremes
    if dtype == np.uint8:
        return 0.0, 255.0
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def match_pixel_range(
    dtype: np.dtype, extremes: tuple[float, float], fitted: tuple[float, float]
) -> tuple[float, float]:
    """Return the pixel range to read new rows with, given the one learned in fit.

    Bytes stay bytes where the model has learned from pixels in [0, 1]; everything else has to be
    in the units of fit.

    Raises
    ------
    ValueError
        If floats lie in [0, 1] but the model has learned from bytes, or the reverse; if the model
        has learned from negative pixels, which bytes cannot be, or bytes are 0 and 1.
    """
    _, highest = extremes
    if dtype == np.uint8 and fitted[0] < 0:
        raise ValueError(
            "X holds pixels in 0..255, but the transformer was fitted on pixels from {:g} to {:g}. "
            "Pass an array that is scaled as in fit.".format(*fitted)
        )
    if dtype == np.uint8 and fitted == (0.0, 1.0) and highest == 1:
        raise ValueError(
            "X is uint8, whose 255 stands for 1, but its largest value is 1, and the transformer "
            "was fitted on pixels in [0, 1]. Pass X.astype(float); or X / 255, if these are bytes "
            "of images that are nearly black."
        )
    if dtype == np.uint8:
        return (0.0, 255.0) if fitted == (0.0, 1.0) else fitted
    if fitted == (0.0, 255.0) and 0 < highest <= 1 and dtype.kind == "f":
        raise ValueError(
            f"X holds {dtype} values in [0, 1], but the transformer was fitted on pixels in "
            "0..255. Pass X * 255, or the uint8 images."
        )
    if fitted == (0.0, 1.0) and highest > _LARGEST_UNIT_PIXEL:
        raise ValueError(
            f"X reaches {highest:g}, but the transformer was fitted on pixels in [0, 1]. Scale "
            "X as in fit, or pass uint8 images."
        )
    return fitted


def channel_statistics(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, 1 where that is zero, of each channel or feature: (c,) or (d,).

    Images are measured in [0, 1].
    """
    scaler, dispatched = StandardScaler(), isinstance(samples.rows, TensorRows)
    for block in samples.blocks():
        if block.ndim == 4:
            block = block.permute(0, 2, 3, 1).flatten(0, 2)  # (n * h * w, c)
        scaler.partial_fit(block if dispatched else block.cpu().numpy())
    mean, scale = (torch.as_tensor(part).cpu().numpy() for part in (scaler.mean_, scaler.scale_))
    return mean.astype(np.float32), scale.astype(np.float32)


def batch_shape(n_samples: int, batch_size: int) -> tuple[int, int]:
    """Number and size of the batches of an epoch.

    All are of one size, at most `batch_size` and at least 2. A few rows may sit out an epoch: fewer
    than there are batches, but one of 3 in batches of 2.

    Examples
    --------
    >>> from sklearn_simclr._data import batch_shape
    >>> batch_shape(1000, 256), batch_shape(100, 256), batch_shape(257, 256)
    ((4, 250), (1, 100), (2, 128))
    """
    size = max(2, n_samples // -(-n_samples // batch_size))
    return n_samples // size, size


def shuffled_batches(n_samples: int, batch_size: int, generator: Generator) -> Tensor:
    """Draw the batches of an epoch: (n_batches, size) indices, no index twice."""
    n_batches, size = batch_shape(n_samples, batch_size)
    order = torch.randperm(n_samples, generator=generator)
    return order[: n_batches * size].view(n_batches, size)
