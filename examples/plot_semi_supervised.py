"""
Few labels and many images: SimCLRClassifier
============================================

You have 900 images of digits, and labels for 1, 2, 5 or 10 of each class.
:class:`~sklearn_simclr.SimCLRClassifier` takes them as scikit-learn's semi-supervised estimators
do: all images, and -1 in place of each label that is missing. How far does it come, beside a
logistic regression on pixels or on frozen features, and beside scikit-learn's `LabelSpreading`?

The whole script takes less than a minute on two CPU cores.
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.semi_supervised import LabelSpreading

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, train_size=900, stratify=digits.target, random_state=0
)


def partly_labelled(n_labels, seed):
    """Keep n_labels labels of each class, and put -1 in place of the others."""
    rng = np.random.default_rng(seed)
    kept = [rng.choice(np.flatnonzero(y_train == digit), n_labels, False) for digit in range(10)]
    y = np.full_like(y_train, -1)
    y[np.concatenate(kept)] = y_train[np.concatenate(kept)]
    return y


# %%
# Train the encoder once
# ----------------------
# ``SimCLRClassifier()`` would train the transformer as part of its ``fit``, anew for each set of
# labels. The training needs no labels, so once is enough. `FrozenEstimator` says that the
# transformer is fitted and to be kept as it is.

start = time.perf_counter()
simclr = SimCLRTransformer(max_epochs=30, random_state=0).fit(X_train)
print(f"encoder trained in {time.perf_counter() - start:.0f} s")
frozen = FrozenEstimator(simclr)

# %%
# Five ways to learn from the labels
# ----------------------------------
# The logistic regression reads the labelled images only. `LabelSpreading` reads all of them: it
# passes the labels on from image to image, the nearer the better. `SimCLRClassifier` starts from a
# logistic regression on the features; with 10 labels a class or more it trains the encoder further.
# Then a second network learns to give views of all images the classes that the first takes them
# for. That takes its time, so `max_iter` cuts it short here. (``distill=False`` leaves it out; with
# few labels, what remains is the logistic regression on frozen features.)

pixels = FunctionTransformer(lambda images: images.reshape(len(images), -1) / 16)
features = make_pipeline(frozen, StandardScaler())


def make_models(seed):
    """Make the models to compare; the transformer within them is the same."""
    logistic, spreading = LogisticRegression(max_iter=1000), LabelSpreading(gamma=10)
    return {
        "pixels, logistic regression": make_pipeline(pixels, logistic),
        "pixels, LabelSpreading": make_pipeline(pixels, spreading),
        "features, logistic regression": make_pipeline(features, logistic),
        "features, LabelSpreading": make_pipeline(features, Normalizer(), spreading),
        "SimCLRClassifier": SimCLRClassifier(frozen, max_iter=60, random_state=seed),
    }


def accuracy(name, model, y):
    """Fit on what the model can read, and score on images that none has seen."""
    rows = y != -1 if "logistic" in name else slice(None)
    return 100 * model.fit(X_train[rows], y[rows]).score(X_test, y_test)


n_labels = [1, 2, 5, 10]
n_draws = 3
found = {name: np.zeros((len(n_labels), n_draws)) for name in make_models(0)}
seconds = dict.fromkeys(found, 0.0)
for row, n in enumerate(n_labels):
    for seed in range(n_draws):
        y = partly_labelled(n, seed)
        for name, model in make_models(seed).items():
            start = time.perf_counter()
            found[name][row, seed] = accuracy(name, model, y)
            seconds[name] += (time.perf_counter() - start) / len(n_labels) / n_draws

print(f"\nmean test accuracy (%) over {n_draws} draws of the labels")
print(f"{'labels a class':<31}" + "".join(f"{n:>7}" for n in n_labels) + "   seconds a fit")
for name, scores in found.items():
    print(f"{name:<31}" + "".join(f"{value:7.1f}" for value in scores.mean(axis=1)), end="")
    print(f"{seconds[name]:14.1f}")

# %%
# Drawn
# -----
# A line is the mean; a dot is one draw of the labels. With one label a class much depends on which
# image it is.

import matplotlib.pyplot as plt  # noqa: E402

fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
positions = np.arange(len(n_labels))
for number, (name, scores) in enumerate(found.items()):
    color, x = f"C{number}", positions + 0.03 * (number - 2)
    ax.plot(x, scores.mean(axis=1), color=color, label=name)
    ax.plot(x, scores, "o", color=color, ms=4, alpha=0.6)
ax.set_xticks(positions, n_labels)
ax.set(
    xlabel="labels a class", ylabel="test accuracy (%)", title="Digits, 900 images to learn from"
)
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# What it is unsure of
# --------------------
# It has a probability for each class, like any classifier of scikit-learn. The test images with the
# lowest are those to look at, or to label next if they were yours. These are of the last model
# above, which had 10 labels a class.

probability = model.predict_proba(X_test)
unsure = probability.max(axis=1).argsort()[:10]
fig, axes = plt.subplots(1, 10, figsize=(9, 1.6), layout="constrained")
for ax, image, digit, found_ in zip(
    axes, X_test[unsure], y_test[unsure], probability[unsure], strict=True
):
    ax.imshow(image, cmap="gray_r")
    ax.axis("off")
    ax.set_title(f"{found_.argmax()} ({found_.max():.0%})\nis {digit}", fontsize=9)
plt.show()

right = model.predict(X_test) == y_test
print(f"accuracy {100 * right.mean():.1f}%; of the 50 least sure ones ", end="")
print(f"{100 * right[probability.max(axis=1).argsort()[:50]].mean():.0f}%")

# %%
# What to make of it
# ------------------
# Most is won by the features: with one label a class even a logistic regression on them is ahead of
# every model that reads pixels. What is learned from the unlabelled images a second time, by
# `LabelSpreading` or by the classifier's distillation, comes on top, and matters less the more
# labels there are. The two are about equally good here, and `LabelSpreading` is much quicker.
#
# On data of your own:
#
# - start with ``SimCLRClassifier(FrozenEstimator(simclr), method="linear", distill=False)`` or the
#   logistic regression. They take no time, and tell what the features are worth;
# - try the defaults next, without `max_iter`. They take longer than here, and pay most where the
#   features are good but not made for your classes;
# - with thousands of images, mind that `LabelSpreading` compares each with each;
# - label the images that the classifier is least sure of, and fit again.
#
# See :doc:`/user_guide/few_labels`.
