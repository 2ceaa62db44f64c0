"""
Choosing a model without labels
===============================

You have trained SimCLR in several ways and have no labels to compare the results. Several measures
need none: how often a view finds its partner (``score``), `alignment`, `uniformity` and `rankme`.
Do they pick the model that labels would have picked? Here we have labels, so we can check.

The whole script takes less than a minute on two CPU cores.
"""

import time

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation
from sklearn_simclr.metrics import (
    alignment_scorer,
    contrastive_accuracy,
    contrastive_accuracy_scorer,
    rankme_scorer,
    uniformity_scorer,
)

digits = load_digits()
images, labels = digits.images[:1200], digits.target[:1200]
X_train, X_test, y_train, y_test = train_test_split(
    images, labels, train_size=600, stratify=labels, random_state=0
)

# %%
# Ten models
# ----------
# Six models share the default views and differ in how they are trained. The other four differ in
# the views, from views that change nothing at all to views that change far too much.

nothing = AffineAugmentation(degrees=0, translate=0, scale=(1, 1), shear=0, noise=0)
weak = AffineAugmentation(degrees=3, translate=0.02, scale=(0.95, 1.05), shear=2, noise=0.02)
strong = AffineAugmentation(degrees=30, translate=0.15, scale=(0.7, 1.3), shear=20, noise=0.2)
too_strong = AffineAugmentation(degrees=180, translate=0.3, scale=(0.4, 1.6), shear=40, noise=0.5)
settings = {
    "default": {},
    "1 epoch": {"max_epochs": 1},
    "4 epochs": {"max_epochs": 4},
    "low learning rate": {"learning_rate": 1e-4},
    "temperature 0.1": {"temperature": 0.1},
    "temperature 1": {"temperature": 1.0},
    "no change": {"augmentation": nothing},
    "weak views": {"augmentation": weak},
    "strong views": {"augmentation": strong},
    "too strong": {"augmentation": too_strong},
}

start = time.perf_counter()
base = SimCLRTransformer(batch_size=128, max_epochs=10, random_state=0)
models = {
    name: SimCLRTransformer(**{**base.get_params(), **params}).fit(X_train)
    for name, params in settings.items()
}
print(f"{len(models)} models trained in {time.perf_counter() - start:.0f} s")

# %%
# What labels say
# ---------------
# The figure to predict is the accuracy of logistic regression with 5 labels per class, on held-out
# images. It is the mean over 10 draws of the labels, which are the same for all models.


def draw(n_labels, rng):
    """Choose n_labels training images of each class."""
    per_class = [np.flatnonzero(y_train == digit) for digit in range(10)]
    return np.concatenate([rng.choice(rows, n_labels, replace=False) for rows in per_class])


draws = [draw(5, np.random.default_rng(seed)) for seed in range(10)]


def linear_accuracy(model):
    h_train, h_test = model.transform(X_train), model.transform(X_test)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = [classifier.fit(h_train[rows], y_train[rows]).score(h_test, y_test) for rows in draws]
    return 100 * np.mean(scores)


accuracy = np.array([linear_accuracy(model) for model in models.values()])

# %%
# What the measures without labels say
# ------------------------------------
# The scorers measure the held-out images. Higher is better for all of them; `alignment_scorer` and
# `uniformity_scorer` return the negative of the measure. ``score`` and `alignment` use the views
# with which the model was trained, so models with different views are hard to compare. The second
# measure below tries to fix that: every model has to find the partners among the same views, the
# default ones, whatever it was trained with. `contrastive_accuracy` and ``transform`` are all it
# needs.

generator = torch.Generator().manual_seed(0)
pixels = torch.from_numpy(X_test / 16).float().unsqueeze(1)  # (n, 1, 8, 8), in [0, 1]
first, second = (16 * AffineAugmentation()(pixels, generator).squeeze(1).numpy() for _ in range(2))


def partners_among_the_same_views(model, X, y=None):
    return contrastive_accuracy(model.transform(first), model.transform(second))


scorers = {
    "score": contrastive_accuracy_scorer,
    "score on the same views": partners_among_the_same_views,
    "- alignment": alignment_scorer,
    "- uniformity": uniformity_scorer,
    "RankMe": rankme_scorer,
}
table = {
    name: np.array([scorer(model, X_test) for model in models.values()])
    for name, scorer in scorers.items()
}

print(f"\n{'':<19}accuracy" + "".join(f"{name:>25}" for name in table))
for row, name in enumerate(models):
    values = "".join(f"{column[row]:25.2f}" for column in table.values())
    print(f"{name:<19}{accuracy[row]:8.1f}{values}")

# %%
# Do they agree?
# --------------
# Spearman's rho compares two rankings: it is 1 if they are the same, about 0 if they are unrelated,
# and -1 if one is the reverse of the other. We compute it for the six models with the default
# views, and for all ten. What counts in the end is the accuracy of the model that a measure picks.

names = list(models)
same_views = np.array(["augmentation" not in params for params in settings.values()])
rho = {
    name: (spearmanr(column[same_views], accuracy[same_views])[0], spearmanr(column, accuracy)[0])
    for name, column in table.items()
}

best = accuracy.argmax()
print(f"\nlabels would pick {names[best]!r}: {accuracy[best]:.1f}%")
print(f"one picked at random has {accuracy.mean():.1f}% on average\n")
print(f"{'':<27}rho: default views    all   pick of all")
for name, column in table.items():
    pick = column.argmax()
    print(f"{name:<27}{rho[name][0]:18.2f}{rho[name][1]:7.2f}   ", end="")
    print(f"{names[pick]}: {accuracy[pick]:.1f}%")

# %%
# Plot the results
# ----------------
# Each point is a model. A measure is useful for choosing if its points rise from left to right.

import matplotlib.pyplot as plt  # noqa: E402

fig, axes = plt.subplots(2, 3, figsize=(10, 6.4), sharey=True, layout="constrained")
for ax, (name, column) in zip(axes.flat, table.items(), strict=False):
    for row, setting in enumerate(names):
        marker = "o" if same_views[row] else "s"
        ax.plot(column[row], accuracy[row], marker, ms=9, color=f"C{row}", label=setting)
    ax.set_title(
        f"{name}\nrho {rho[name][0]:.2f} (default views), {rho[name][1]:.2f} (all)",
        fontsize=10,
    )
    ax.locator_params(axis="x", nbins=5)
    ax.grid(alpha=0.3)
for ax in axes[:, 0]:
    ax.set_ylabel("accuracy, 5 labels per class (%)")
axes.flat[-1].axis("off")
axes.flat[-1].legend(
    *axes.flat[0].get_legend_handles_labels(), loc="center", title="circles: the default views"
)
plt.show()

# %%
# Conclusions
# -----------
# The model whose views change nothing has the best ``score`` and the best `alignment`, and features
# among the worst. These two measures reflect how hard the task was, so they cannot compare models
# with different views. Among models with the same views ``score`` is useful: it detects short
# training runs and learning rates that are too low. It cannot rank temperatures: it prefers low
# ones. `rankme` is misled by the low learning rate, whose features use many directions but are of
# little use. `uniformity` prefers the high temperature. Over all ten models, the score on the
# same views follows the accuracy best, closely followed by `uniformity`.
#
# Ten models of one small data set prove little. With your own data:
#
# - choose the views from what you know of the data: which changes preserve what you want to
#   distinguish? The score on the same views depends on this choice as well, but in one place
#   instead of ten;
# - use ``score``, the default of a search without labels, only for epochs and learning rates, and
#   the other measures to find training runs that went wrong;
# - label a few samples, say 5 per class, and measure what you actually need.
#
# See :doc:`/user_guide/model_selection` for a study with longer training runs.
