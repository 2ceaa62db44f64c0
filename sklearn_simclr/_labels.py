"""Convert the labels given by the user to class numbers; -1 for no label."""

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor


def read_labels(y, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, sorted, and the number of each row's class, -1 for no label.

    Raises
    ------
    ValueError
        If y does not hold one class per row, or -1 ("-1" if they are strings) for no label.

    Examples
    --------
    >>> from sklearn_simclr._labels import read_labels
    >>> read_labels(["dog", "-1", "cat"], 3)
    (array(['cat', 'dog'], dtype='<U3'), array([ 1, -1,  0]))
    """
    y = column_or_1d(y.cpu().numpy() if isinstance(y, Tensor) else y, warn=True)
    if len(y) != n_samples:
        raise ValueError(
            f"y holds {len(y)} labels, but X has {n_samples} rows. Pass one label per row, -1 for "
            "no label."
        )
    if y.dtype.kind == "O" and any(map(_is_missing, y)):
        raise ValueError("y holds missing values, such as None or NaN. Pass -1 for no label.")
    texts = y.astype(str) if y.dtype.kind == "O" else y
    unlabelled = np.isin(texts, ["-1", "-1.0"]) if texts.dtype.kind in "US" else y == -1
    labelled = y[~unlabelled]
    if len(labelled):
        check_classification_targets(labelled)
    classes, numbers = np.unique(labelled, return_inverse=True)
    codes = np.full(n_samples, -1, dtype=np.int64)
    codes[~unlabelled] = numbers
    return classes, codes


def read_targets(y, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Do as `read_labels`, but treat -1 and 1 as two classes if y holds nothing else.

    Examples
    --------
    >>> from sklearn_simclr._labels import read_targets
    >>> read_targets([1, -1, 1], 3)
    (array([-1,  1]), array([1, 0, 1]))
    """
    classes, codes = read_labels(y, n_samples)
    if classes.tolist() == [1] and (codes < 0).any():
        classes, codes = np.array([-1, 1], classes.dtype), codes + 1
    return classes, codes


def _is_missing(label) -> bool:
    """Whether a label is None, NaN, or pandas' equivalent of these."""
    return label is None or type(label).__name__ in ("NAType", "NaTType") or label != label
