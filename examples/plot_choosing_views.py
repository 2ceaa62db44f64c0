"""
Choosing views by looking at them
=================================

SimCLR learns to ignore whatever the views change. Views that change what an image means teach the
wrong thing, and the loss does not show it: it falls all the same. So look at some views before a
long training run, and ask of each: *would I still give it the same name?*

The data are scikit-learn's digits. We look at the views of two augmentations before training; then
we train with both, to see whether the eye was right. The script takes half a minute on two CPU
cores.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation, SimCLRAugmentation
from sklearn_simclr.inspection import LossCurveDisplay, NeighborsDisplay, ViewsDisplay
from sklearn_simclr.metrics import knn_accuracy

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=1000, stratify=y, random_state=0
)

# %%
# The views of photographs
# ------------------------
# ``ViewsDisplay`` takes an estimator, fitted or not, and makes the views that ``fit`` would make.
# These are the paper's views for photographs: a random part of the image, often mirrored. A
# photograph of a dog still shows a dog when it is mirrored or cropped. This does not hold for a
# digit: some views of the 8 show half of it or less, which might be a 3 or nothing at all, and the
# mirror image of the 5 in the last row looks much like a 2.

photographic = SimCLRTransformer(
    augmentation=SimCLRAugmentation(color_strength=0, grayscale_p=0),  # there are no colours
    max_epochs=15,
    random_state=0,
)
_ = ViewsDisplay.from_estimator(photographic, X_train, n_samples=5, random_state=6)

# %%
# The views of digits
# -------------------
# ``AffineAugmentation`` rotates, shifts, scales and shears a little, and adds noise, as another
# hand or another scanner might do. Every view is still legible. This is what
# ``augmentation="auto"`` chooses for images of one channel.

affine = SimCLRTransformer(augmentation=AffineAugmentation(), max_epochs=15, random_state=0)
_ = ViewsDisplay.from_estimator(affine, X_train, n_samples=5, random_state=6)

# %%
# Train with both
# ---------------
# No labels are used. Both losses fall, each to the level that its views allow: stronger views are
# harder to match. The height of the curves says nothing about which features are better.

photographic.fit(X_train)
affine.fit(X_train)

display = LossCurveDisplay.from_estimator(photographic, name="views of photographs")
_ = LossCurveDisplay.from_estimator(affine, name="views of digits", ax=display.ax_)

# %%
# Measure
# -------
# Labels tell which augmentation is better, and 50 are enough. We compare the accuracy of the
# nearest neighbours, which uses all labels, and that of logistic regression on 50 labelled images,
# both on held-out images.

_, X_few, _, y_few = train_test_split(
    X_train, y_train, test_size=50, stratify=y_train, random_state=0
)

for name, simclr in {"views of photographs": photographic, "views of digits": affine}.items():
    h_train, h_test = simclr.transform(X_train), simclr.transform(X_test)
    neighbors = knn_accuracy(h_train, y_train, h_test, y_test)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    few = classifier.fit(simclr.transform(X_few), y_few).score(h_test, y_test)
    print(f"{name:<22} nearest neighbours {neighbors:.1%}   50 labels {few:.1%}")

# %%
# What went wrong
# ---------------
# The neighbours show which images a network considers similar. Below are the test images with the
# most neighbours of another class, for the network that learned from views of photographs: it has
# learned to ignore what distinguishes these digits.


def most_mistaken(simclr, n_queries=4):
    """Return the rows of the test images that have the most neighbours of another class."""
    h = simclr.transform(X_test)
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    nearest = np.argsort(-h @ h.T, axis=1)[:, 1:7]
    return np.argsort(-(y_test[nearest] != y_test[:, None]).sum(axis=1), kind="stable")[:n_queries]


rows = most_mistaken(photographic)
_ = NeighborsDisplay.from_estimator(photographic, X_test, y=y_test, queries=rows)

# %%
# The same images with the network that learned from views of digits:

_ = NeighborsDisplay.from_estimator(affine, X_test, y=y_test, queries=rows)
plt.show()
