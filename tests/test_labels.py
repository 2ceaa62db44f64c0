"""Labels in every form, and which rows have none."""

import numpy as np
import pandas as pd
import pytest

from sklearn_simclr._labels import read_labels, read_targets


@pytest.mark.parametrize(
    "y, classes, codes",
    [
        pytest.param([2, 0, 2], [0, 2], [1, 0, 1], id="numbers"),
        pytest.param(np.array([7, -1, 3]), [3, 7], [1, -1, 0], id="one without"),
        pytest.param([-1, -1, -1], [], [-1, -1, -1], id="none"),
        pytest.param([1.0, -1.0, 0.0], [0.0, 1.0], [1, -1, 0], id="whole floats"),
        pytest.param([True, False, True], [False, True], [1, 0, 1], id="booleans"),
        pytest.param(["dog", "cat", "dog"], ["cat", "dog"], [1, 0, 1], id="texts"),
        pytest.param(["dog", "-1", "cat"], ["cat", "dog"], [1, -1, 0], id="texts, one without"),
        pytest.param(np.array(["dog", -1, "cat"], object), ["cat", "dog"], [1, -1, 0], id="object"),
        pytest.param(np.array(["dog", "-1", "a"], object), ["a", "dog"], [1, -1, 0], id="objects"),
        pytest.param(np.array(["dog", -1.0, "a"], object), ["a", "dog"], [1, -1, 0], id="float"),
        pytest.param(["dog", -1.0, "a"], ["a", "dog"], [1, -1, 0], id="float in a list"),
        pytest.param(pd.Series(["b", "a", -1]), ["a", "b"], [1, 0, -1], id="series"),
        pytest.param(pd.Series([3, -1, 3]), [3], [0, -1, 0], id="series of numbers"),
    ],
)
def test_labels_are_read(y, classes, codes):
    found_classes, found_codes = read_labels(y, 3)
    assert found_classes.tolist() == classes
    assert found_codes.tolist() == codes and found_codes.dtype == np.int64


@pytest.mark.parametrize(
    "y, match",
    [
        ([0, 1], "y holds 2 labels, but X has 3 rows"),
        ([0, 1, 2, 3], "y holds 4 labels, but X has 3 rows"),
        ([0.5, 1.5, 0.1], "Unknown label type: continuous"),
        ([[0, 1], [1, 0], [1, 1]], "1d array"),
        ([0, np.nan, 1], "NaN"),
        (["a", None, "b"], "missing values.* Pass -1"),
        (np.array(["a", np.nan, "b"], object), "missing values.* Pass -1"),
        (pd.Series(["a", pd.NA, "b"]), "missing values.* Pass -1"),
        (pd.Series(["a", None, "b"], dtype="string"), "missing values.* Pass -1"),
    ],
)
def test_labels_that_are_none_are_refused(y, match):
    with pytest.raises(ValueError, match=match):
        read_labels(y, 3)


@pytest.mark.parametrize(
    "y, classes, codes",
    [
        ([1, -1, 1], [-1, 1], [1, 0, 1]),
        ([1.0, -1.0, 1.0], [-1.0, 1.0], [1, 0, 1]),
        ([2, -1, 1], [1, 2], [1, -1, 0]),
        ([1, 1, 1], [1], [0, 0, 0]),
        (["1", "-1", "1"], ["1"], [0, -1, 0]),
    ],
)
def test_minus_one_and_one_alone_are_two_classes(y, classes, codes):
    found_classes, found_codes = read_targets(y, 3)
    assert found_classes.tolist() == classes and found_codes.tolist() == codes
