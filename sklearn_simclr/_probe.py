"""Logistic regression on the features of a transformer, and what comes of it: a linear model."""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches
from sklearn.utils.extmath import softmax
from torch import Tensor

from sklearn_simclr._distributed import World

_MAX_ITERATIONS = 1000
_SCALED_ROWS = 1024  # at a time in float64, which takes several times the memory of float32
_LEAST_SPREAD = 1e-5  # of a feature, as a share of its mean: a hundred times float32's rounding


class LinearModel(NamedTuple):
    """A fitted transformer and a linear layer on its features."""

    transformer: object  # a fitted SimCLRTransformer
    coef: np.ndarray  # (k, d)
    intercept: np.ndarray  # (k,)

    @classmethod
    def of(cls, fitted: dict) -> "LinearModel":
        """Return the model among the fitted attributes of a classifier."""
        return cls(fitted["transformer_"], fitted["linear_coef_"], fitted["linear_intercept_"])

    def logits(self, X) -> np.ndarray | Tensor:
        """Logits (n, k), whatever the number of classes."""
        features, coef, intercept = self.transformer._features(X), self.coef, self.intercept
        if isinstance(features, Tensor):
            coef, intercept = (torch.tensor(p, device=features.device) for p in (coef, intercept))
        logits = features @ coef.T
        logits += intercept  # in place: (n, k) may be large
        return logits

    def probabilities(self, X, temperature: float) -> np.ndarray:
        """Probabilities (n, k) of the classes on the CPU, with logits divided by a temperature."""
        logits = _on_cpu(self.logits(X))
        logits /= temperature
        return softmax(logits, copy=False)


def fit_probe(transformer, X, codes: np.ndarray, world: World) -> tuple[LinearModel, int]:
    """Fit logistic regression on the features of the labelled rows; return its iterations too.

    The features are standardised by all rows, and that is folded into the linear layer.
    """
    features = _on_cpu(transformer._features(X))
    coef, intercept, n_iter = world.broadcast_result(lambda: _regression(features, codes))
    return LinearModel(transformer, coef, intercept), n_iter


def _on_cpu(values: np.ndarray | Tensor) -> np.ndarray:
    """Return an array of values, without a copy if they are on the CPU."""
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _regression(features: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the linear layer (k, d) and (k,) of logistic regression, and its iterations."""
    from sklearn.linear_model import LogisticRegression  # would double the time of `import`

    labelled = codes >= 0
    scaler = StandardScaler()
    for block in gen_batches(len(features), _SCALED_ROWS):
        scaler.partial_fit(features[block].astype(np.float64))
    mean, scale = scaler.mean_, scaler.scale_
    scale[scale < _LEAST_SPREAD * abs(mean)] = np.inf  # such a feature is left out
    rows = features[labelled] - mean  # float64
    rows /= scale
    regression = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(rows, codes[labelled])
    coef, intercept = regression.coef_, regression.intercept_
    if len(coef) == 1:  # two classes: the logit of the second less that of the first
        coef, intercept = np.vstack([-coef, coef]) / 2, np.hstack([-intercept, intercept]) / 2
    coef = coef / scale
    intercept = intercept - coef @ mean
    n_iter = int(regression.n_iter_[0])
    return coef.astype(np.float32), intercept.astype(np.float32), n_iter
