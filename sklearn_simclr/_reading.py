"""X as the user gives it, checked in scikit-learn's way, to samples."""

import math

import numpy as np
import torch
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import validate_data

from sklearn_simclr._data import (
    Samples,
    TensorRows,
    as_array,
    is_streamable,
    largest_byte,
    match_pixel_range,
    read_extremes,
    read_image_shape,
    read_pixel_range,
    stays_tensor,
)
from sklearn_simclr._device import resolve_device
from sklearn_simclr._files import ImageFiles, as_paths, read_files
from sklearn_simclr._warnings import warn_caller

_BYTES = (0.0, 255.0)  # the pixels that stand for 0 and 1
_DIM = 16  # up to which bytes are likely to be something else, such as masks or few levels


def open_to_learn(estimator, X, y, *, reset: bool) -> tuple:
    """Decode image files, and leave out those that cannot be read if they are to be skipped.

    Returns what X is to be read from, and X and y without the samples left out.
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
    """Decode the image files whose paths X holds; return anything else as it is."""
    paths = None if isinstance(X, ImageFiles) else as_paths(X)
    if paths is None:
        return X
    estimator._validate_params()  # the classifier comes here before `fit`
    if reset and estimator.image_shape is not None:
        raise ValueError(
            f"image_shape={estimator.image_shape} describes the rows of a 2-D X, but X holds the "
            "paths of image files. Leave image_shape=None, and pass image_size to bring the "
            "images to a size."
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
    """Validate X, and put it beside the device of this moment."""
    device = resolve_device(estimator.device)
    X = open_files(estimator, X, reset=reset)
    rows, image_shape = _check_rows(estimator, X, reset=reset, min_samples=min_samples)
    if isinstance(X, ImageFiles):
        if not reset:  # files are read from black to white, whatever stood for these in fit
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
        pixel_range = read_pixel_range(rows.dtype, extremes)
        if rows.dtype == np.uint8:
            _warn_of_dim_bytes(rows)
    elif image_shape is not None:
        if rows.dtype == np.uint8:
            extremes = 0.0, float(largest_byte(rows, enough=1))
        pixel_range = match_pixel_range(rows.dtype, extremes, estimator.pixel_range_)
    return Samples(rows, image_shape, estimator.channel_axis == 1, pixel_range, device)


def _warn_of_dim_bytes(rows) -> None:
    largest = largest_byte(rows, enough=_DIM)
    if 0 < largest <= _DIM:
        warn_caller(
            f"X is uint8, whose 255 stands for white, but its largest value is {largest}: to the "
            f"network these images are nearly black. Pass X / {largest} if that is white."
        )


def _check_rows(estimator, X, *, reset: bool, min_samples: int) -> tuple:
    """Validate X but for its values; return its rows (n, ...) and the shape of its images."""
    if isinstance(X, ImageFiles):
        few = np.zeros((min(len(X), min_samples), X.rows.shape[1]), np.uint8)
        validate_data(estimator, few, reset=reset, dtype=np.uint8, ensure_min_samples=min_samples)
        if not reset:
            _check_image_shape(estimator, X.image_shape)
        return X.rows, X.image_shape
    X = as_array(X)
    image_shape = None
    if hasattr(X, "shape"):
        image_shape = read_image_shape(
            tuple(X.shape), estimator.image_shape, estimator.channel_axis
        )
    if hasattr(X, "shape") and not reset:
        _check_several(estimator, tuple(X.shape))
        if len(X.shape) > 2:
            _check_image_shape(estimator, image_shape)
    # Of an array a few rows tell all but its values, and it is not converted as a whole.
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
        _check_image_shape(estimator, image_shape)  # rows may hold as many values, but be vectors
    rows = X if streamed else rows
    return TensorRows(rows) if stays_tensor(rows) else rows, image_shape


def _check_several(estimator, shape: tuple[int, ...]) -> None:
    """Refuse an X that is a single image of the shape of those in fit."""
    height, width, channels = estimator.image_shape_ or (0, 0, 0)
    first = estimator.channel_axis == 1
    single = {(channels, height, width) if first else (height, width, channels)}
    if channels == 1:  # images without an axis for it, of which there may be one
        single = (single | {(height, width)}) - {(1, height, width), (1, height * width)}
    if shape in single:
        raise ValueError(
            f"X of shape {shape} looks as if it were a single image. Pass X[None], or several "
            "images."
        )


def _check_image_shape(estimator, image_shape: tuple | None) -> None:
    """Refuse an X that is not of the shape of the images in fit, or not of vectors."""
    if image_shape != estimator.image_shape_:
        raise ValueError(
            f"X holds {_describe(image_shape)}, but {type(estimator).__name__} was fitted on "
            f"{_describe(estimator.image_shape_)}. Bring X to that shape first."
        )


def _describe(image_shape: tuple[int, int, int] | None) -> str:
    return "vectors" if image_shape is None else f"images of (h, w, c) = {image_shape}"
