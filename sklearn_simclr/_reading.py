"""Convert the X given by the user, validated as in scikit-learn, to samples."""

import math
from numbers import Integral

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils import _safe_indexing, check_array, check_consistent_length
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sklearn_simclr._data import Samples, TensorRows, block_indices
from sklearn_simclr._device import resolve_device
from sklearn_simclr._files import ImageFiles, as_paths, read_files
from sklearn_simclr._warnings import warn_caller

_CHANNEL_COUNTS = (1, 3, 4)  # an axis of such a length is taken as the channels
_LARGEST_SHARE = 2  # of the white of fit, with room for interpolation that overshoots
_BYTES, _UNIT = (0.0, 255.0), (0.0, 1.0)  # the usual pixels that stand for 0 and 1
_HALF = 128  # which the largest pixel in 0..255 exceeds, but for the darkest images
_DIM = 16  # up to which bytes are probably something else, such as masks or few levels
# Pixels in smaller units span less than _FLAT standard deviations of those of fit, within _NEAR of
# their range around 0: within _NEARER if some are negative, since plain grey images lie there too.
# Pixels in larger units leave the range by more than _FAR of it.
_FLAT, _NEAR, _NEARER, _FAR = 0.1, 0.02, 0.001, 0.5


def open_to_learn(estimator, X, y, *, reset: bool) -> tuple:
    """Decode image files, and leave out those that cannot be read if they are to be skipped.

    Returns what to read X from, and X and y without the samples left out.
    """
    files = open_files(estimator, X, reset=reset, skip_bad=estimator.on_bad_files == "skip")
    if isinstance(files, ImageFiles) and files is not X and files.left_out:
        check_consistent_length(X, y)
        message = f"{files.left_out}\nThey are left out, and so are their labels."
        warn_caller(message)
        X = _safe_indexing(X, files.kept)
        y = None if y is None else _safe_indexing(y, files.kept)
    return files, X, y


def open_files(estimator, X, *, reset: bool, skip_bad: bool = False):
    """Decode the image files whose paths X holds; return anything else unchanged."""
    paths = None if isinstance(X, ImageFiles) else as_paths(X)
    if paths is None:
        return X
    estimator._validate_params()  # the classifier comes here before `fit`
    if reset and estimator.image_shape is not None:
        raise ValueError(
            f"image_shape={estimator.image_shape} describes the rows of a 2-D X, but X holds the "
            "paths of image files. Leave image_shape=None, and pass image_size to resize "
            "the images."
        )
    if not reset and (estimator.image_shape_ is None or estimator.image_shape_[2] not in (1, 3)):
        raise ValueError(
            "X holds the paths of image files, which have 1 or 3 channels, but "
            f"{type(estimator).__name__} was fitted on {_describe(estimator.image_shape_)}. Pass X "
            "as in fit."
        )
    return read_files(
        paths,
        image_shape=None if reset else estimator.image_shape_,
        image_size=estimator.image_size,
        n_jobs=estimator.n_jobs,
        cache_dir=estimator.cache_dir,
        skip_bad=skip_bad,
    )


def read_samples(estimator, X, *, reset: bool, min_samples: int) -> Samples:
    """Validate X, and return its samples with the device of this moment."""
    device = resolve_device(estimator.device)
    X = open_files(estimator, X, reset=reset)
    rows, image_shape = _check_rows(estimator, X, reset=reset, min_samples=min_samples)
    if isinstance(X, ImageFiles):
        if reset:
            _warn_if_dim(
                rows,
                "The brightest pixel of the image files in X is {} in 0..255",
                "If they hold fewer bits than their format, such as 12 in 16, scale them first.",
            )
        else:  # files range from black to white, whatever these were in fit
            match_pixel_range(np.dtype(np.uint8), _BYTES, estimator.pixel_range_)
        return Samples(rows, image_shape, False, _BYTES, device)
    if reset and image_shape is None and estimator.image_size is not None:
        raise ValueError(
            f"image_size={estimator.image_size} needs images, but the rows of X are vectors. Pass "
            "image_shape=(height, width) if they are images, or leave image_size=None."
        )
    extremes = read_extremes(rows, estimator)
    pixel_range = None
    if image_shape is not None and reset:
        pixel_range = read_pixel_range(extremes)
        if rows.dtype == np.uint8:
            _warn_if_dim(
                rows,
                "X is uint8, whose 255 stands for white, but its largest value is {}",
                "Pass X / {} if that is white.",
            )
    elif image_shape is not None:
        if rows.dtype == np.uint8 and estimator.pixel_range_ != _BYTES:
            if estimator.pixel_range_ == _UNIT:  # these may be masks
                extremes = 0.0, largest_byte(rows, enough=1)
            else:
                extremes = read_extremes(rows, estimator, exact=True)
        pixel_range = match_pixel_range(rows.dtype, extremes, estimator.pixel_range_)
        if rows.dtype != np.uint8 or pixel_range != _BYTES:
            _warn_of_other_units(extremes, estimator)
    return Samples(rows, image_shape, estimator.channel_axis == 1, pixel_range, device)


def _warn_if_dim(rows, finding: str, mend: str) -> None:
    """Warn of bytes of which none is bright; the texts name the largest one."""
    largest = largest_byte(rows, enough=_DIM)
    if 0 < largest <= _DIM:
        message = f"{finding}: to the network these images are nearly black. {mend}"
        warn_caller(message.format(largest, largest))


def _check_rows(estimator, X, *, reset: bool, min_samples: int) -> tuple:
    """Validate X except its values; return its rows (n, ...) and the shape of its images."""
    if isinstance(X, ImageFiles):
        few = np.zeros((min(len(X), min_samples), X.rows.shape[1]), np.uint8)
        validate_data(estimator, few, reset=reset, dtype=np.uint8, ensure_min_samples=min_samples)
        if not reset:
            _check_image_shape(estimator, X.image_shape)
        return X.rows, X.image_shape
    X = as_array(X)
    image_shape = read_image_shape(tuple(X.shape), estimator.image_shape, estimator.channel_axis)
    if reset and len(X.shape) == 4:
        _warn_of_channels(tuple(X.shape), estimator.channel_axis)
    if not reset:
        _check_several(estimator, tuple(X.shape))
        if len(X.shape) > 2:
            _check_image_shape(estimator, image_shape)
    # A few rows of an array reveal all but its values, so it is not converted as a whole.
    streamed = is_streamable(X)
    rows = X[:min_samples] if streamed else X
    if getattr(rows, "ndim", 2) > 2:
        rows = rows if hasattr(rows, "reshape") else np.asarray(rows)
        rows = rows.reshape(len(rows), math.prod(X.shape[1:]))
    kinds = torch if stays_tensor(X) else np
    rows = validate_data(
        estimator,
        rows,
        reset=reset,
        dtype=[kinds.float32, kinds.uint8],  # the first is what other dtypes become
        ensure_min_samples=min_samples,
    )
    if not reset:
        _check_image_shape(estimator, image_shape)  # rows of the same length may be vectors
    rows = X if streamed else rows
    return TensorRows(rows) if stays_tensor(rows) else rows, image_shape


def _check_several(estimator, shape: tuple[int, ...]) -> None:
    """Raise an error if X is a single image of the shape in fit."""
    height, width, channels = estimator.image_shape_ or (0, 0, 0)
    first = estimator.channel_axis == 1
    single = {(channels, height, width) if first else (height, width, channels)}
    if channels == 1:  # images without a channel axis, of which X may hold one
        single = (single | {(height, width)}) - {(1, height, width), (1, height * width)}
    if shape in single:
        raise ValueError(
            f"X of shape {shape} looks as if it were a single image. Pass X[None], or several "
            "images."
        )


def _check_image_shape(estimator, image_shape: tuple | None) -> None:
    """Raise an error if X does not hold images of the shape in fit, or vectors as in fit."""
    if image_shape != estimator.image_shape_:
        raise ValueError(
            f"X holds {_describe(image_shape)}, but {type(estimator).__name__} was fitted on "
            f"{_describe(estimator.image_shape_)}. Bring X to that shape first."
        )


def _describe(image_shape: tuple[int, int, int] | None) -> str:
    return "vectors" if image_shape is None else f"images of (h, w, c) = {image_shape}"


def stays_tensor(X) -> bool:
    """Whether X is a tensor, and scikit-learn's array API dispatch wants it to stay one."""
    return isinstance(X, Tensor) and get_config()["array_api_dispatch"]


def as_array(X):
    """Convert tensors, lists and the like to NumPy; leave frames and sparse matrices alone.

    Tensors stay tensors under scikit-learn's array API dispatch.

    Raises
    ------
    ValueError
        If the samples differ in shape, are complex or text, or have no values.
    TypeError
        If X is a torch Dataset or DataLoader, or not a sequence, such as a generator or a Bunch.
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
        if isinstance(X, Dataset | DataLoader):  # NumPy might read a Dataset without end
            raise TypeError(_not_an_array(X))
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
            raise TypeError(_not_an_array(given))
    if _is_text(X):
        raise ValueError(
            "X must hold numbers, or the paths of image files in a single column of str or Path; "
            "got other text."
        )
    column, name = _only_column(X)
    if len(getattr(column, "shape", ())) == 1 and len(column) and np.ndim(_first(column)) > 0:
        raise ValueError(
            f"X is a {type(X).__name__} of {len(X)} arrays, not an array of numbers. Pass "
            f"np.stack(list({name})) if all have the same shape."
        )
    return X


def _only_column(X) -> tuple:
    """Return the column of a frame that has just one, and how it is written; else X itself."""
    names = [*X.columns] if hasattr(X, "columns") and len(X.shape) == 2 else []
    is_only = len(names) == 1 and isinstance(names[0], str | int)
    return (X[names[0]], f"X[{names[0]!r}]") if is_only else (X, "X")


def _not_an_array(X) -> str:
    """Message for an X of the wrong type."""
    if isinstance(X, DataLoader):
        advice = "Batches are made in fit: pass an array, a memory map or the paths of image files."
    elif isinstance(X, Dataset):
        advice = "Its items are often pairs: pass the images, stacked, as X, and the labels as y."
    else:
        advice = "Pass list(X) for a generator, X.data for a Bunch."
    return (
        "X must be an array, a tensor, or a list of samples or paths; got a "
        f"{type(X).__name__}. {advice}"
    )


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
        image_shape = _check_given_shape(image_shape)
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


def _check_given_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(image_shape) not in (2, 3) or not all(
        isinstance(side, Integral) and side > 0 for side in image_shape
    ):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels), integers > 0; "
            f"got {image_shape!r}."
        )
    return (*map(int, image_shape), 1)[:3]


def _read_channels(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int]:
    """Return (h, w, c) of the images in an X of this shape (n, ., ., .)."""
    other_end, _, channels = _from_the_other_end(shape, channel_axis)
    if channels not in _CHANNEL_COUNTS and other_end in _CHANNEL_COUNTS:
        raise ValueError(f"{_doubt(shape, channel_axis)}.")
    return shape[1:] if channel_axis == -1 else (*shape[2:], shape[1])


def _warn_of_channels(shape: tuple[int, ...], channel_axis: int) -> None:
    """Warn of channels of an unusual number that seem to be on the other axis."""
    other_end, middle, channels = _from_the_other_end(shape, channel_axis)
    if channels not in _CHANNEL_COUNTS and other_end < middle == channels:
        warn_caller(f"{_doubt(shape, channel_axis)} if they did.")


def _from_the_other_end(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int]:
    """Lengths of the axes of an image, those of the channels as `channel_axis` says last."""
    return shape[1:] if channel_axis == -1 else shape[:0:-1]


def _doubt(shape: tuple[int, ...], channel_axis: int) -> str:
    said, found, other = ("last", "first", 1) if channel_axis == -1 else ("first", "last", -1)
    return (
        f"X of shape {shape} looks as if the channels came {found}, but "
        f"channel_axis={channel_axis} says {said}. Pass channel_axis={other}"
    )


def is_streamable(X) -> bool:
    """Whether X is an array or tensor of samples that can be read block by block as it is."""
    if isinstance(X, Tensor):
        return X.ndim >= 2
    return type(X) in (np.ndarray, np.memmap) and X.ndim >= 2 and X.dtype.kind in "biuf"


def read_extremes(
    rows: np.ndarray | TensorRows, estimator, *, exact: bool = False
) -> tuple[float, float]:
    """Return the smallest and the largest value, as float32; of uint8 those of the dtype at once.

    Raises
    ------
    ValueError
        If a value is not finite as float32, with scikit-learn's message for this estimator.
    """
    if rows.dtype == np.uint8 and not exact:
        return _BYTES
    extremes, dtype = [], np.float32
    if isinstance(rows, TensorRows):
        rows, dtype = rows.tensor, torch.float32
    for index in block_indices(rows):
        block = rows[index[0] : index[-1] + 1]
        block = block.reshape(len(block), math.prod(block.shape[1:]))
        block = check_array(block, dtype=dtype, estimator=estimator, input_name="X")
        extremes += [float(block.min()), float(block.max())]
    return min(extremes), max(extremes)


def largest_byte(rows, enough: int) -> int:
    """Return the largest value of uint8, or the first one found that is larger than `enough`."""
    largest = 0
    for index in block_indices(rows):
        largest = max(largest, int(rows[index.numpy()].max()))
        if largest > enough:
            break
    return largest


def read_pixel_range(extremes: tuple[float, float]) -> tuple[float, float]:
    """Return the values that stand for 0 and 1: these if all lie in [0, 1], else the extremes."""
    low, high = extremes
    if 0 <= low and high <= 1:
        return _UNIT
    return low, high if high > low else low + 1


def match_pixel_range(
    dtype: np.dtype, extremes: tuple[float, float], fitted: tuple[float, float]
) -> tuple[float, float]:
    """Return the pixel range to read new rows with, given the one learned in fit.

    uint8 is read as such if the model was fitted on pixels in [0, 1]; everything else has to be in
    the units of fit.

    Raises
    ------
    ValueError
        If the values cannot be in the units of fit: uint8 after negative pixels, uint8 of 0 and 1
        after pixels in [0, 1], values in [0, 1] after bytes, or ones far beyond either.
    """
    low, high = extremes
    if dtype == np.uint8:
        # Resized bytes overshoot at both ends.
        if fitted[0] < -_HALF or (fitted[0] < 0 and fitted[1] < _HALF):
            raise ValueError(
                "X holds pixels in 0..255, but the transformer was fitted on pixels from {:g} to "
                "{:g}. Pass an array that is scaled as in fit.".format(*fitted)
            )
        if fitted == _UNIT and high == 1:
            raise ValueError(
                "X is uint8, whose 255 stands for 1, but its largest value is 1, and the "
                "transformer was fitted on pixels in [0, 1]. Pass X.astype(float); or X / 255, if "
                "these are bytes of images that are nearly black."
            )
        return _BYTES if fitted == _UNIT else fitted
    if fitted == _BYTES and low >= 0 and 0 < high <= 1 and dtype.kind in "bf":
        raise ValueError(
            f"X holds {dtype} values in [0, 1], but the transformer was fitted on pixels in "
            "0..255. Pass X * 255, or the uint8 images."
        )
    if fitted in (_UNIT, _BYTES) and high > _LARGEST_SHARE * fitted[1]:
        raise ValueError(
            f"X reaches {high:g}, but the transformer was fitted on pixels in "
            f"{'[0, 1]' if fitted == _UNIT else '0..255'}. Scale X as in fit, or pass uint8 images."
        )
    return fitted


def _warn_of_other_units(extremes: tuple[float, float], estimator) -> None:
    """Warn of pixels that are hardly in the units of fit."""
    (low, high), (black, white) = extremes, estimator.pixel_range_
    whole, varying = white - black, estimator.scale_[estimator.scale_ < 1]  # 1: a constant channel
    is_flat = 0 < high - low < _FLAT * max(varying, default=0) * whole
    is_near = max(-low, high) < (_NEAR if black >= 0 else _NEARER) * whole
    is_far = low < black - _FAR * whole or high > white + _FAR * whole
    if (is_flat and is_near) or is_far:
        warn_caller(
            f"X holds pixels from {low:.4g} to {high:.4g}, but the transformer was fitted on "
            f"pixels from {black:.4g} to {white:.4g}: if the units differ, scale X as in fit."
        )
