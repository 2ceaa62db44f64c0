"""
CIFAR-10, or as much of it as your machine can handle
=====================================================

CIFAR-10 is the data set on which SimCLR is usually tried: 50,000 training photographs of 32 x 32
pixels in ten classes. It has to be downloaded (170 MB). Without it, this script runs on generated
images instead, as it did when this page was built: the code is the same, but the figures are not
those of CIFAR-10.

To run it on the real data, download them, and name their folder in the environment variable
``CIFAR10``::

    python -c "import torchvision; torchvision.datasets.CIFAR10('data', download=True)"
    CIFAR10=data python plot_cifar10.py
"""

import os

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.datasets import CIFAR10

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.callbacks import MeasureHistory
from sklearn_simclr.datasets import make_shapes
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.inspection import NeighborsDisplay
from sklearn_simclr.metrics import knn_accuracy

folder = os.environ.get("CIFAR10")
has_gpu = torch.cuda.is_available()


def load(n_train, n_test):
    if folder is None:
        X, y = make_shapes(n_train + n_test, random_state=0)
        return X[:n_train], y[:n_train], X[n_train:], y[n_train:]
    train, test = (CIFAR10(folder, train=part) for part in (True, False))
    return (
        train.data[:n_train],  # (n, 32, 32, 3), uint8
        np.array(train.targets[:n_train]),
        test.data[:n_test],
        np.array(test.targets[:n_test]),
    )


# %%
# How much of it
# --------------
# With a GPU: all images and a whole ResNet-18. Without: some of the images and a network of an
# eighth of the width. Twice the epochs and twice the images are worthwhile, and take twice the time
# each; so is twice the width, which takes two to a bit over three times as much.

if has_gpu:
    X_train, y_train, X_test, y_test = load(50_000, 10_000)
    encoder, epochs, batch_size = ResNetEncoder(18), 100, 512
else:
    X_train, y_train, X_test, y_test = load(1_000, 500)
    encoder, epochs, batch_size = ResNetEncoder(18, width=0.125), 6, 125
source = "generated images" if folder is None else "CIFAR-10"
print(f"{source}: {len(X_train):,} images to learn from, {len(X_test):,} to test on")

# %%
# Train, and watch what matters
# -----------------------------
# `fit` gets the training images without labels. Every few epochs, held-out images are measured with
# their labels, which training never sees.

history = MeasureHistory(X_test[:500], y_test[:500], scoring="knn", every=max(1, epochs // 6))
simclr = SimCLRTransformer(
    encoder, batch_size=batch_size, max_epochs=epochs, random_state=0, verbose=1
)
simclr.set_callbacks(history).fit(X_train)

# %%
# How good the features are
# -------------------------
# The two usual measures are the vote of the ten nearest neighbours and logistic regression, both
# with all labels. Raw pixels are given for comparison.


def measures(h_train, h_test):
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return {
        "neighbours": 100 * knn_accuracy(h_train, y_train, h_test, y_test),
        "linear": 100 * linear.fit(h_train, y_train).score(h_test, y_test),
    }


def flat(X):
    return X.reshape(len(X), -1) / np.float32(255)


h_train, h_test = simclr.transform(X_train), simclr.transform(X_test)
results = {
    "raw pixels": measures(flat(X_train), flat(X_test)),
    "SimCLR": measures(h_train, h_test),
}
for name, values in results.items():
    print(f"{name:12s}", "  ".join(f"{key} {value:.1f}%" for key, value in values.items()))

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
rows = history.history_
ax.plot([row["epoch"] for row in rows], [100 * row["knn"] for row in rows], marker="o")
ax.set(xlabel="epoch", ylabel="accuracy of neighbours, held out (%)", title=source)
ax.grid(alpha=0.3)
plt.show()

# %%
# The images that the network considers similar. A tick marks those of the same class.

display = NeighborsDisplay.from_estimator(
    simclr, X_train, y=y_train, X_query=X_test, y_query=y_test, queries=4, random_state=0
)
plt.show()

# %%
# What to expect on the real data: six epochs on 1,000 of the images show that everything works, not
# how good it can be, and are no better than raw pixels. With 10,000 of the images and an eighth of
# the width, 40 epochs (about ten minutes on two cores) gave 56% by neighbours and 60% by logistic
# regression, compared with 30% and 30% on raw pixels (see the :doc:`benchmarks </benchmarks>`).
# Published results with a whole ResNet-18 and hundreds of epochs on a GPU are near 90%.
