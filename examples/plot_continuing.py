"""
Continuing from weights
=======================

A training need not start from nothing. Here an encoder has been trained on one set of images, the
digits from 0 to 4, and its weights are the start of a training on others, the digits from 5 to 9,
of which there are few. The same ways serve for weights from elsewhere, such as those of
torchvision's networks.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder

digits = load_digits()
is_low = digits.target < 5
low = digits.images[is_low]
few, X_test, y_few, y_test = train_test_split(
    digits.images[~is_low],
    digits.target[~is_low],
    train_size=100,
    stratify=digits.target[~is_low],
    random_state=0,
)
print(f"{len(low)} images of 0 to 4; {len(few)} of 5 to 9 to learn from, {len(X_test)} to test on")

# %%
# Weights in a file
# -----------------
# ``to_torch()`` is the trained network as a plain torch module, and ``state_dict()`` its weights. A
# file that ``torch.save`` writes of them holds nothing but numbers.

before = SimCLRTransformer(
    ResNetEncoder(width=0.125), batch_size=128, max_epochs=15, random_state=0
).fit(low)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "low_digits.pt"
torch.save(before.to_torch().encoder.state_dict(), path)
print(f"{path.stat().st_size / 1e6:.1f} MB")

# %%
# A training that starts from it
# ------------------------------
# ``weights`` takes the path. It says where the first training starts, and nothing more: the fitted
# transformer does not need the file.

further = ResNetEncoder(width=0.125, weights=path)
accuracies = {}


def accuracy(simclr):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(simclr.transform(few), y_few)
    return 100 * classifier.score(simclr.transform(X_test), y_test)


for epochs in (1, 5, 20):
    for name, encoder in (("scratch", ResNetEncoder(width=0.125)), ("weights", further)):
        simclr = SimCLRTransformer(encoder, batch_size=50, max_epochs=epochs, random_state=0)
        accuracies[name, epochs] = accuracy(simclr.fit(few))
        print(f"{epochs:2d} epochs from {name}: {accuracies[name, epochs]:.1f}%")
accuracies["before"] = accuracy(before)
print(f"the features of 0 to 4 as they are: {accuracies['before']:.1f}%")

# %%
# The classifier learns the digits from 5 to 9 from a hundred images in either case. What differs is
# what its features know. A single epoch changes the weights that were given more than it improves
# them. With five, the training that did not start from nothing was five points ahead when this was
# written; with twenty, both came to the same. These are single runs, of which others come out
# differently.

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, label in (("scratch", "from scratch"), ("weights", "from the weights of 0 to 4")):
    line = [accuracies[name, epochs] for epochs in (1, 5, 20)]
    ax.plot(np.arange(3), line, marker="o", label=label)
ax.axhline(accuracies["before"], color="0.5", linestyle=":", label="these weights as they are")
ax.set_xticks(np.arange(3), ["1", "5", "20"])
ax.set(xlabel="epochs on 100 images of 5 to 9", ylabel="test accuracy (%)")
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# The same transformer, further
# -----------------------------
# To go on with a transformer itself there are two more ways. ``warm_start=True`` lets another
# ``fit`` start a new schedule from the present weights. ``partial_fit`` makes one epoch over what
# it is given, for images that arrive in pieces. Both keep the range of the pixels and the
# normalisation of the first call.

stream = SimCLRTransformer(ResNetEncoder(width=0.125), batch_size=128, random_state=0)
for piece in np.array_split(low, 3):
    stream.partial_fit(piece)
print(f"{stream.n_iter_} epochs, a piece each")

# %%
# On data of your own: photographs are the case for ``ResNetEncoder(50,
# weights=ResNet50_Weights.DEFAULT)`` with the weights of ``torchvision.models``, which were learned
# with labels from a million photographs. They want images of 100 pixels a side and more.
