"""Every kind of X to batches on the device."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Generator, Tensor

from sklearn_simclr._placement import pinned, placed

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
        return self.batches(block_indices(self.rows))

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
        indices = block_indices(self.rows)
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


def block_indices(rows) -> tuple[Tensor, ...]:
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
    for index in block_indices(rows):
        content.update(_plain(rows[index.numpy()]).cpu().numpy())
    return content.hexdigest()


def channel_statistics(
    samples: Samples, indices: Iterable[Tensor] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, 1 where that is zero, of each channel or feature: (c,) or (d,).

    Of the samples at `indices`; None: of all. Images are measured in [0, 1].
    """
    blocks = samples.blocks() if indices is None else samples.batches(indices)
    if samples.image_shape is not None:
        return _image_statistics(blocks)
    scaler, dispatched = StandardScaler(), isinstance(samples.rows, TensorRows)
    for block in blocks:
        scaler.partial_fit(block if dispatched else block.cpu().numpy())
    mean, scale = (torch.as_tensor(part).cpu().numpy() for part in (scaler.mean_, scaler.scale_))
    return mean.astype(np.float32), scale.astype(np.float32)


def _image_statistics(blocks: Iterable[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Do what `channel_statistics` says of images, five times as fast as StandardScaler."""
    n = mean = squares = 0  # squares: sum of squared differences from the mean
    for block in blocks:
        block = block if block.device.type == "cuda" else block.cpu()  # Apple's lack float64
        pixels = block.flatten(2)  # (k, c, h * w)
        middle = pixels.mean((0, 2), dtype=torch.float64).float()
        rest = pixels.sub_(middle[:, None])  # small beside their differences, whatever the mean is
        n_new = rest.numel() // len(middle)
        shift = rest.mean((0, 2), dtype=torch.float64)
        new_squares = rest.square_().sum((0, 2), dtype=torch.float64) - n_new * shift**2
        step = middle + shift - mean
        squares = squares + new_squares + step**2 * (n * n_new / (n + n_new))
        n += n_new
        mean = mean + step * (n_new / n)
    scale = (squares.clamp(min=0) / n).sqrt()
    scale[scale == 0] = 1
    return mean.float().cpu().numpy(), scale.float().cpu().numpy()


def batch_shape(n_samples: int, batch_size: int) -> tuple[int, int]:
    """Number and size of the batches of an epoch.

    All are of one size, at most `batch_size` and at least 2. A few rows are left out of an epoch:
    fewer than there are batches (but one of 3 rows in batches of 2).

    Examples
    --------
    >>> from sklearn_simclr._data import batch_shape
    >>> batch_shape(1000, 256), batch_shape(100, 256), batch_shape(257, 256)
    ((4, 250), (1, 100), (2, 128))
    """
    size = max(2, n_samples // -(-n_samples // int(batch_size)))  # NumPy's may be unsigned
    return n_samples // size, size


def shuffled_batches(n_samples: int, batch_size: int, generator: Generator) -> Tensor:
    """Draw the batches of an epoch: (n_batches, size) indices, no index twice."""
    n_batches, size = batch_shape(n_samples, batch_size)
    order = torch.randperm(n_samples, generator=generator)
    return order[: n_batches * size].view(n_batches, size)
