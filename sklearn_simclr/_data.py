"""Every kind of X to batches on the device."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from torch import Generator, Tensor

_CHANNEL_COUNTS = (1, 3, 4)  # an axis of such a length is taken for the channels
_LARGEST_UNIT_PIXEL = 2  # room for interpolation that overshoots [0, 1]
_BLOCK_VALUES = 2**24  # how many values the statistics read at a time


@dataclass(frozen=True)
class Samples:
    """Rows of X and what they mean; gives batches on the device.

    Images come out as float (n, c, h, w) with the values of `pixel_range` brought to [0, 1],
    vectors as float (n, d), unchanged.
    """

    rows: np.ndarray  # (n, h * w * c) or (n, d), uint8 or float32
    image_shape: tuple[int, int, int] | None  # (h, w, c)
    channels_first: bool
    pixel_range: tuple[float, float] | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

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
            rows = torch.from_numpy(np.asarray(self.rows[index.numpy()])).to(self.device)
        else:
            rows = self._resident[index.to(self.device, non_blocking=True)]
        rows = rows.float()
        if self.image_shape is None:
            return rows
        low, high = self.pixel_range
        rows = rows.sub_(low).div_(high - low)
        if self.channels_first:
            return rows.view(-1, *self.input_shape)
        return rows.view(-1, *self.image_shape).permute(0, 3, 1, 2)  # channels last in memory

    @cached_property
    def _resident(self) -> Tensor | None:
        """All rows on the GPU, if half its free memory holds them."""
        if self.device.type != "cuda":
            return None
        if self.rows.nbytes > torch.cuda.mem_get_info(self.device)[0] // 2:
            return None
        return torch.tensor(self.rows, device=self.device)


def as_array(X):
    """Bring tensors, lists and the like to NumPy; leave frames and sparse matrices alone.

    Raises
    ------
    ValueError
        If the samples differ in shape, or are text.
    """
    if isinstance(X, Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    elif not hasattr(X, "shape"):
        try:
            if isinstance(X, list | tuple) and X and all(isinstance(x, Tensor) for x in X):
                return as_array(torch.stack(X))
            X = np.asarray(X)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"X must hold samples of one shape, got a ragged sequence ({error}). "
                "Bring all images to one size first."
            ) from error
    if _is_text(X):
        raise ValueError(
            "X must hold numbers, got text: pass the pixels of the images, not their file names."
        )
    return X


def _is_text(X) -> bool:
    if isinstance(X, np.ndarray) and X.dtype.kind in "US":
        return True
    if getattr(X, "ndim", 0) != 1 or not len(X):
        return False
    return isinstance(X.iloc[0] if hasattr(X, "iloc") else X[0], str)


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


def read_pixel_range(rows: np.ndarray) -> tuple[float, float]:
    """Return the values that stand for 0 and 1: those of the dtype, of [0, 1], or the extremes."""
    if rows.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(rows.min()), float(rows.max())
    if 0 <= low and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def match_pixel_range(rows: np.ndarray, fitted: tuple[float, float]) -> tuple[float, float]:
    """Return the pixel range to read new rows with, given the one learned in fit.

    Bytes stay bytes where the model has learned from pixels in [0, 1]; everything else has to be
    in the units of fit.

    Raises
    ------
    ValueError
        If the rows lie in [0, 1] but the model has learned from bytes, or the reverse.
    """
    if rows.dtype == np.uint8 and fitted == (0.0, 1.0):
        return 0.0, 255.0
    if rows.dtype != np.uint8 and fitted == (0.0, 255.0) and 0 < rows.max() <= 1:
        raise ValueError(
            f"X holds {rows.dtype} values in [0, 1], but the transformer was fitted on pixels in "
            "0..255. Pass X * 255, or the uint8 images."
        )
    if fitted == (0.0, 1.0) and rows.max() > _LARGEST_UNIT_PIXEL:
        raise ValueError(
            f"X reaches {rows.max():g}, but the transformer was fitted on pixels in [0, 1]. Scale "
            "X as in fit, or pass uint8 images."
        )
    return fitted


def channel_statistics(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, 1 where that is zero, of each channel or feature: (c,) or (d,).

    Images are measured in [0, 1].
    """
    scaler = StandardScaler()
    block_rows = max(1, _BLOCK_VALUES // samples.rows.shape[1])
    for index in torch.arange(len(samples)).split(block_rows):
        block = samples.batch(index)
        if block.ndim == 4:
            block = block.permute(0, 2, 3, 1).flatten(0, 2)  # (n * h * w, c)
        scaler.partial_fit(block.cpu().numpy())
    return scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)


def read_labels(y, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, sorted, and the number of each row's class, -1 where it has no label.

    Raises
    ------
    ValueError
        If y does not hold one class for each row, or -1, or "-1" among texts, where there is none.

    Examples
    --------
    >>> from sklearn_simclr._data import read_labels
    >>> read_labels(["dog", "-1", "cat"], 3)
    (array(['cat', 'dog'], dtype='<U3'), array([ 1, -1,  0]))
    """
    y = column_or_1d(y, warn=True)
    if len(y) != n_samples:
        raise ValueError(
            f"y holds {len(y)} labels, but X has {n_samples} rows. Pass one label a row, -1 where "
            "there is none."
        )
    texts = y.astype(str) if y.dtype.kind == "O" else y
    unlabelled = texts == ("-1" if texts.dtype.kind in "US" else -1)
    labelled = y[~unlabelled]
    if len(labelled):
        check_classification_targets(labelled)
    classes, numbers = np.unique(labelled, return_inverse=True)
    codes = np.full(n_samples, -1, dtype=np.int64)
    codes[~unlabelled] = numbers
    return classes, codes


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
