"""X as the user gives it: its form, its shape, and what its pixels stand for."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sklearn_simclr import _data
from sklearn_simclr._data import TensorRows
from sklearn_simclr._reading import (
    as_array,
    largest_byte,
    match_pixel_range,
    read_extremes,
    read_image_shape,
    read_pixel_range,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_torch_tensors_of_any_float_dtype(dtype):
    X = torch.tensor([[0.5, 2.0], [-1.0, 4.0]], dtype=dtype)
    assert np.array_equal(as_array(X).astype(np.float64), X.double().numpy())


def test_frames_and_sparse_matrices_are_left_alone():
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    assert as_array(frame) is frame


@pytest.mark.parametrize(
    "X", [[np.zeros((2, 2)), np.zeros((3, 2))], [[1, 2], [3]], (np.zeros(2), np.zeros(3))]
)
def test_samples_of_different_shapes_are_refused_with_the_mend(X):
    with pytest.raises(ValueError, match=r"samples of one shape.* Bring all images to one size"):
        as_array(X)


class EndlessDataset(Dataset):
    """Never raises the IndexError that ends the reading of a sequence."""

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), 0


PAIRS = TensorDataset(torch.zeros(4, 3, 8, 8), torch.arange(4))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (PAIRS, "got a TensorDataset. Its items are often pairs: pass the images, stacked"),
        (EndlessDataset(), "got a EndlessDataset. Its items"),
        (DataLoader(PAIRS), "got a DataLoader. .*: pass an array, a memory map or the paths"),
    ],
)
def test_torch_datasets_are_refused_with_the_mend(X, message):
    with pytest.raises(TypeError, match=message):
        as_array(X)


@pytest.mark.parametrize(
    "X",
    [
        ["a.png", "b.png"],
        np.array(["a.png", "b.png"]),
        np.array(["a.png", "b.png"], dtype=object),
        np.array([["a.png"], ["b.png"]]),
        pd.Series(["a.png", "b.png"], index=[5, 6]),
    ],
    ids=["list", "array", "object array", "2-D array", "series"],
)
def test_text_is_refused_with_the_mend(X):
    with pytest.raises(ValueError, match="X must hold numbers, or the paths of image files in a"):
        as_array(X)


@pytest.mark.parametrize(
    "shape, image_shape, channel_axis, expected",
    [
        ((10, 7), None, -1, None),
        ((10,), None, -1, None),
        ((10, 12), (3, 4), -1, (3, 4, 1)),
        ((10, 24), (3, 4, 2), -1, (3, 4, 2)),
        ((10, 3, 4), None, -1, (3, 4, 1)),
        ((10, 3, 4), (3, 4), -1, (3, 4, 1)),
        ((10, 8, 9, 3), None, -1, (8, 9, 3)),
        ((10, 8, 9, 7), None, -1, (8, 9, 7)),
        ((10, 7, 8, 9), None, 1, (8, 9, 7)),
        ((10, 3, 8, 9), None, 1, (8, 9, 3)),
        ((10, 3, 3, 3), None, -1, (3, 3, 3)),
        ((10, 3, 8, 1), None, 1, (8, 1, 3)),
        ((10, 3, 8, 1), None, -1, (3, 8, 1)),
    ],
)
def test_read_image_shape(shape, image_shape, channel_axis, expected):
    assert read_image_shape(shape, image_shape, channel_axis) == expected


@pytest.mark.parametrize(
    "shape, image_shape, channel_axis, message",
    [
        ((10, 13), (3, 4), -1, r"image_shape=\(3, 4, 1\) needs rows of 12 values.*\(10, 13\)"),
        ((10, 3, 8, 9), None, -1, r"\(10, 3, 8, 9\) looks as if .* first.* Pass channel_axis=1"),
        ((10, 8, 9, 3), None, 1, r"\(10, 8, 9, 3\) looks as if .* last.* Pass channel_axis=-1"),
        (
            (10, 8, 9),
            (9, 8),
            -1,
            r"image_shape=\(9, 8, 1\) .*\(10, 8, 9\).* Leave image_shape=None",
        ),
        ((10, 2, 8, 9, 3), None, -1, r"with channel_axis=1, \(n, c, h, w\); got shape \(10, 2,"),
    ],
)
def test_shapes_that_contradict_are_refused_with_the_mend(
    shape, image_shape, channel_axis, message
):
    with pytest.raises(ValueError, match=message):
        read_image_shape(shape, image_shape, channel_axis)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([3, 200], np.uint8), (0.0, 255.0)),
        (np.array([0, 1], np.uint8), (0.0, 255.0)),
        (np.array([0.25, 0.75]), (0.0, 1.0)),
        (np.array([0.0, 0.0]), (0.0, 1.0)),
        (np.array([0.0, 16.0]), (0.0, 16.0)),
        (np.array([-1.0, 1.0]), (-1.0, 1.0)),
        (np.array([7.0, 7.0]), (7.0, 8.0)),
    ],
)
def test_read_pixel_range(values, expected):
    assert read_pixel_range(read_extremes(values[None], "Test")) == expected


@pytest.mark.parametrize(
    "values, fitted, expected",
    [
        (np.array([3, 200], np.uint8), (0.0, 1.0), (0.0, 255.0)),
        (np.array([3, 200], np.uint8), (0.0, 255.0), (0.0, 255.0)),
        (np.array([3, 200], np.uint8), (0.0, 16.0), (0.0, 16.0)),
        (np.array([3, 200], np.uint8), (-0.5, 255.5), (-0.5, 255.5)),  # of interpolated floats
        (np.array([3.0, 200.0]), (0.0, 255.0), (0.0, 255.0)),
        (np.array([0.0, 0.0]), (0.0, 255.0), (0.0, 255.0)),  # black
        (np.array([0, 1]), (0.0, 255.0), (0.0, 255.0)),  # nearly so
        (np.array([-20.0, 300.0]), (0.0, 255.0), (0.0, 255.0)),  # interpolated
        (np.array([0.1, 0.5]), (0.0, 1.0), (0.0, 1.0)),
        (np.array([0.1, 0.5]), (0.0, 16.0), (0.0, 16.0)),
        (np.array([-3.0, 20.0]), (0.0, 16.0), (0.0, 16.0)),
    ],
)
def test_match_pixel_range(values, fitted, expected):
    extremes = read_extremes(values[None], "Test")
    assert match_pixel_range(values.dtype, extremes, fitted) == expected


@pytest.mark.parametrize(
    "fitted, highest, match",
    [
        ((-1.0, 1.0), 255.0, r"fitted on pixels from -1 to 1\. .* as in fit"),
        ((-953.0, 2937.0), 255.0, r"fitted on pixels from -953 to 2937\. .* as in fit"),
        ((0.0, 1.0), 1.0, r"its largest value is 1, .* Pass X\.astype\(float\)"),
    ],
)
def test_bytes_in_other_units_are_refused(fitted, highest, match):
    with pytest.raises(ValueError, match=match):
        match_pixel_range(np.dtype(np.uint8), (0.0, highest), fitted)


@pytest.mark.parametrize("as_rows", [np.asarray, lambda X: TensorRows(torch.from_numpy(X))])
@pytest.mark.parametrize("values, enough, expected", [([0, 3, 9], 1, 3), ([0, 3, 9], 16, 9)])
def test_largest_byte_is_searched_for_until_it_is_enough(
    monkeypatch, as_rows, values, enough, expected
):
    monkeypatch.setattr(_data, "_BLOCK_VALUES", 1)
    assert largest_byte(as_rows(np.array(values, np.uint8)[:, None]), enough) == expected


@pytest.mark.parametrize("dtype, largest", [("float32", 0.5), ("float32", 1.0), ("bool", 1.0)])
def test_pixels_in_0_to_1_are_refused_by_a_model_of_bytes(dtype, largest):
    with pytest.raises(ValueError, match=rf"{dtype} values in \[0, 1\].* Pass X \* 255"):
        match_pixel_range(np.dtype(dtype), (0.0, largest), (0.0, 255.0))


@pytest.mark.parametrize("image_shape", [(64,), (8, 8, 1, 1), (8, -8), (8.0, 8)])
def test_an_image_shape_that_is_none_is_refused(image_shape):
    with pytest.raises(ValueError, match="image_shape must be"):
        read_image_shape((10, 64), image_shape, -1)


@pytest.mark.parametrize(
    "largest, fitted, match",
    [
        (255.0, (0.0, 1.0), r"X reaches 255, .* in \[0, 1\]"),
        (65535.0, (0.0, 255.0), r"X reaches 65535, .* in 0\.\.255"),
    ],
)
def test_pixels_far_beyond_those_of_fit_are_refused(largest, fitted, match):
    with pytest.raises(ValueError, match=match):
        match_pixel_range(np.dtype(np.float32), (0.0, largest), fitted)


PHOTOS = np.random.default_rng(0).integers(3, 252, (8, 8, 8, 3))
NORMALISED = (PHOTOS / 127.5 - 1).astype(np.float32)


@pytest.mark.parametrize(
    "X, then",
    [
        pytest.param(PHOTOS, PHOTOS / 255, id="floats in [0, 1] after 3 to 251"),
        pytest.param(PHOTOS.astype(np.uint8), 2 * NORMALISED, id="normalised after bytes"),
        pytest.param(PHOTOS * 257, PHOTOS.astype(np.uint8), id="bytes after 16 bits"),
        pytest.param(PHOTOS / 255, NORMALISED, id="in [-1, 1] after [0, 1]"),
        pytest.param(NORMALISED, PHOTOS, id="0 to 255 after [-1, 1]"),
        pytest.param(PHOTOS / 255 * 16, PHOTOS / 255 * 1600, id="100 times as large"),
        pytest.param(PHOTOS / 255 * 16, PHOTOS.astype(np.uint8), id="bytes after 0 to 16"),
        pytest.param(PHOTOS / 255, PHOTOS / 255**2, id="divided twice"),
    ],
)
def test_pixels_that_are_hardly_in_the_units_of_fit_are_warned_of(simclr, X, then):
    model = simclr(max_epochs=1).fit(X)
    with pytest.warns(UserWarning, match="if the units differ, scale X as in fit"):
        model.transform(then)


WITH_A_CONSTANT_CHANNEL = np.where(np.arange(3) == 2, 0.0, PHOTOS)
WITH_A_HOT_PIXEL = PHOTOS * 1.0
WITH_A_HOT_PIXEL[0, 0, 0] = 2e4


def test_pixels_far_from_the_extremes_of_fit_are_not_warned_of(simclr):
    model = simclr(max_epochs=1).fit(WITH_A_HOT_PIXEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.transform(PHOTOS)


def test_bytes_in_the_units_of_bright_images_are_not_warned_of(simclr):
    bright = PHOTOS // 2 + 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simclr(max_epochs=1, batch_size=4).fit(bright).transform(bright.astype(np.uint8))


@pytest.mark.parametrize(
    "X", [PHOTOS, PHOTOS.astype(np.uint8), PHOTOS / 255, NORMALISED, WITH_A_CONSTANT_CHANNEL]
)
def test_dark_bright_and_plain_images_in_the_units_of_fit_are_not_warned_of(simclr, X):
    model = simclr(max_epochs=1).fit(X)
    low, high = float(X.min()), float(X.max())
    shares = [[0, 0], [0.5, 0.5], [0.5, 0.505], [0.9, 0.91], [1, 1], [-0.1, 0.5], [0.5, 1.2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for darkest, brightest in shares if X.dtype.kind == "f" else shares[:-2]:
            images = np.full((1, 8, 8, 3), low + darkest * (high - low))
            images[:, :4] = low + brightest * (high - low)
            model.transform(images.astype(X.dtype))


def test_a_list_of_tensors_is_stacked():
    tensors = [torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, dtype=torch.float32)]
    np.testing.assert_array_equal(as_array(tensors), [np.ones((2, 3)), np.zeros((2, 3))])
    with pytest.raises(ValueError, match="ragged"):
        as_array([torch.ones(2, 3), torch.ones(3, 3)])


def test_values_are_checked_in_all_blocks(monkeypatch):
    monkeypatch.setattr("sklearn_simclr._data._BLOCK_VALUES", 12)
    X = np.arange(60.0).reshape(10, 6)
    assert read_extremes(X, "Test") == (0.0, 59.0)
    X[9, 5] = np.nan
    with pytest.raises(ValueError, match=r"X contains NaN.\nTest does not"):
        read_extremes(X, "Test")
    X[9, 5] = 1e300
    with pytest.raises(ValueError, match="too large for dtype"), np.errstate(over="ignore"):
        read_extremes(X, "Test")
