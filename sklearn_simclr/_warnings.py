"""Warnings that point at the user's own line."""

import sys
import warnings
from types import FrameType

# Whose frames lie between a user's call and the warning.
_BETWEEN = {"contextlib", "joblib", "sklearn", "sklearn_simclr", "torch"}


def warn_caller(message: str) -> None:
    """Warn at the line that has called this package, by way of scikit-learn or not."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_between(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_between(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN
