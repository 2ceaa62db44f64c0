"""
Starting from trained weights
=============================

Training need not start from scratch. Here an encoder is trained on one set of images, the digits
from 0 to 4. Its weights are then the start of training on another set, the digits from 5 to 9, of
which there are few. The same works with weights from elsewhere, such as those of torchvision's
networks.
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
# ``to_torch()`` returns the trained network as a plain torch module, and ``state_dict()`` its
# weights. The file that ``torch.save`` writes contains nothing but numbers.

before = SimCLRTransformer(
    ResNetEncoder(width=0.125), batch_size=128, max_epochs=15, random_state=0
).fit(low)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "low_digits.pt"
torch.save(before.to_torch().encoder.state_dict(), path)
print(f"{path.stat().st_size / 1e6:.1f} MB")

# %%
# Train from this file
# --------------------
# ``weights`` takes the path. It only sets where the first training run starts: the fitted
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
# In each case the classifier learns the digits from 5 to 9 from a hundred images; what differs is
# the encoder. A single epoch hardly improves the given weights; more epochs do. These are single
# runs, and others differ by several points. As a mean over four seeds, of which this is the first,
# starting from the weights was ahead by 11 points after one epoch, 10 after five, and 3 after
# twenty when this was written.

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
# Continue with the same transformer
# ----------------------------------
# There are two more ways to continue training a transformer. With ``warm_start=True`` another
# ``fit`` starts a new schedule from the current weights. ``partial_fit`` makes one epoch over the
# images it is given, for images that arrive in pieces. Both keep the range of the pixels and the
# normalisation of the first call.

stream = SimCLRTransformer(ResNetEncoder(width=0.125), batch_size=128, random_state=0)
for piece in np.array_split(low, 3):
    stream.partial_fit(piece)
print(f"{stream.n_iter_} epochs, one per piece")

# %%
# With your own data: for photographs, use ``ResNetEncoder(50, weights=ResNet50_Weights.DEFAULT)``
# with the weights of ``torchvision.models``, which were learned with labels from a million
# photographs. They need images of at least about 100 pixels per side.
