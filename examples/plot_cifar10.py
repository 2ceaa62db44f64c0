"""
CIFAR-10, or as much of it as your machine can take
===================================================

The data set that SimCLR is usually tried on: 50,000 photographs of 32 x 32 pixels in ten classes.
It has to be downloaded, 170 MB. Without it this script runs on made-up images instead, which is
what it did when this page was built: the code is the same, the figures are not those of CIFAR-10.

Once downloaded, run it on the real data by the environment variable ``CIFAR10``, the folder that
holds them::

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
# With a GPU, all of it and a whole ResNet-18; without, some images and a network of an eighth of
# the width. Twice the epochs, twice the images, or twice the width are each worth having, and cost
# two, two and up to three times as much.

if has_gpu:
    X_train, y_train, X_test, y_test = load(50_000, 10_000)
    encoder, epochs, batch_size = ResNetEncoder(18), 100, 512
else:
    X_train, y_train, X_test, y_test = load(1_000, 500)
    encoder, epochs, batch_size = ResNetEncoder(18, width=0.125), 6, 125
source = "made-up images" if folder is None else "CIFAR-10"
print(f"{source}: {len(X_train):,} images to learn from, {len(X_test):,} to test on")

# %%
# Train, and watch what matters
# -----------------------------
# The images to learn from are given without labels. Now and then the held-out ones are measured, by
# their labels, which the training never sees.

history = MeasureHistory(X_test[:500], y_test[:500], scoring="knn", every=max(1, epochs // 6))
simclr = SimCLRTransformer(
    encoder, batch_size=batch_size, max_epochs=epochs, random_state=0, verbose=1
)
simclr.set_callbacks(history).fit(X_train)

# %%
# What the features are worth
# ---------------------------
# The two usual measures: the vote of the ten nearest neighbours, and logistic regression on all
# labels. Raw pixels stand beside.


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
ax.set(xlabel="epoch", ylabel="neighbours among held-out images (%)", title=source)
ax.grid(alpha=0.3)
plt.show()

# %%
# Which images the network takes for alike. A tick: of the same class.

display = NeighborsDisplay.from_estimator(
    simclr, X_train, y=y_train, X_query=X_test, y_query=y_test, queries=4, random_state=0
)
plt.show()

# %%
# What to expect on the real data: six epochs on 1,000 of the images show that all works, not what
# it is worth, and are no better than raw pixels. With 10,000 of the images and an eighth of the
# width, 40 epochs, some ten minutes on two cores, gave 56% by neighbours and 60% by logistic
# regression, against 30% and 30% on raw pixels (see the :doc:`benchmarks </benchmarks>`). Published
# results with a whole ResNet-18 and hundreds of epochs on a GPU are near 90%.
