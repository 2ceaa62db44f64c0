"""
Few labels and many images: SimCLRClassifier
============================================

You have 900 images of digits, and labels for 1, 2, 5 or 10 of each class.
:class:`~sklearn_simclr.SimCLRClassifier` takes them like scikit-learn's semi-supervised estimators:
all images, and -1 in place of each missing label. How good is it, compared with logistic regression
on pixels or on frozen features, and with scikit-learn's `LabelSpreading`?

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
# ``SimCLRClassifier()`` would train the transformer as part of its ``fit``, again for each set of
# labels. This training needs no labels, so once is enough. `FrozenEstimator` marks the transformer
# as fitted, to be used as it is.

start = time.perf_counter()
simclr = SimCLRTransformer(max_epochs=30, random_state=0).fit(X_train)
print(f"encoder trained in {time.perf_counter() - start:.0f} s")
frozen = FrozenEstimator(simclr)

# %%
# Five ways to learn from the labels
# ----------------------------------
# Logistic regression uses the labelled images only. `LabelSpreading` uses all of them: it spreads
# the labels from image to image, more strongly between near ones. `SimCLRClassifier` starts from
# logistic regression on the features; with 10 or more labels per class it trains the encoder
# further. Then it distils: a second network learns to predict for views of all images what the
# first predicts. This takes a while, so `max_iter` shortens it here. (``distill=False`` leaves it
# out; with few labels, what remains is logistic regression on frozen features.)

pixels = FunctionTransformer(lambda images: images.reshape(len(images), -1) / 16)
features = make_pipeline(frozen, StandardScaler())


def make_models(seed):
    """Make the models to compare; all use the same transformer."""
    logistic, spreading = LogisticRegression(max_iter=1000), LabelSpreading(gamma=10)
    return {
        "pixels, logistic regression": make_pipeline(pixels, logistic),
        "pixels, LabelSpreading": make_pipeline(pixels, spreading),
        "features, logistic regression": make_pipeline(features, logistic),
        "features, LabelSpreading": make_pipeline(features, Normalizer(), spreading),
        "SimCLRClassifier": SimCLRClassifier(frozen, max_iter=60, random_state=seed),
    }


def accuracy(name, model, y):
    """Fit on what the model can use, and score on held-out images."""
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
print(f"{'labels per class':<31}" + "".join(f"{n:>7}" for n in n_labels) + "   seconds per fit")
for name, scores in found.items():
    print(f"{name:<31}" + "".join(f"{value:7.1f}" for value in scores.mean(axis=1)), end="")
    print(f"{seconds[name]:16.1f}")

# %%
# Plot the results
# ----------------
# A line is the mean; a dot is one draw of the labels. With one label per class, much depends on
# which image it is.

import matplotlib.pyplot as plt  # noqa: E402

fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
positions = np.arange(len(n_labels))
for number, (name, scores) in enumerate(found.items()):
    color, x = f"C{number}", positions + 0.03 * (number - 2)
    ax.plot(x, scores.mean(axis=1), color=color, label=name)
    ax.plot(x, scores, "o", color=color, ms=4, alpha=0.6)
ax.set_xticks(positions, n_labels)
ax.set(xlabel="labels per class", ylabel="test accuracy (%)", title="Digits, 900 training images")
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# What the classifier is unsure of
# --------------------------------
# Like other classifiers of scikit-learn, it predicts a probability for each class. The test images
# whose highest probability is lowest are those to look at, or to label next. Here they are for the
# last model above, which had 10 labels per class.

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
# Conclusions
# -----------
# The features contribute most: with one label per class, even logistic regression on them is ahead
# of every model on pixels. Using the unlabelled images a second time, by `LabelSpreading` or by the
# classifier's distillation, adds to this, and matters less the more labels there are. The two are
# about equally good here, and `LabelSpreading` is much faster.
#
# With your own data:
#
# - start with ``SimCLRClassifier(FrozenEstimator(simclr), method="linear", distill=False)`` or with
#   logistic regression. They take almost no time, and show how good the features are;
# - try the defaults next, without `max_iter`. They take longer than here, and help most where the
#   features are good but not made for your classes;
# - with thousands of images, note that `LabelSpreading` compares all pairs of images;
# - label the images of which the classifier is least certain, and fit again.
#
# See :doc:`/user_guide/few_labels`.
