"""
Digits with few labels
======================

You have 1,347 images of digits, and labels for a handful of them. SimCLR learns features from all
images without their labels; logistic regression then learns the classes from the few labels. We
compare raw pixels, the encoder before training, and the trained encoder.

The whole script takes about a minute on two CPU cores.
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, stratify=digits.target, random_state=0
)
print(f"{len(X_train)} images to learn from, {len(X_test)} to test on, {X_train.shape[1:]} pixels")

# %%
# Features without labels
# -----------------------
# ``fit`` sees only the images. A learning rate of almost zero leaves the second encoder untrained.
# The features of both encoders are standardised, again without labels; raw pixels do better as they
# are.

start = time.perf_counter()
print("training 100 epochs ...", flush=True)
simclr = SimCLRTransformer(random_state=0).fit(X_train)
print(f"trained {simclr.encoder_name_} on {simclr.augmentation_name_} views")
print(f"{simclr.n_iter_} epochs in {time.perf_counter() - start:.0f} s")

untrained = SimCLRTransformer(learning_rate=1e-12, max_epochs=1, random_state=0).fit(X_train)


def standardised(encoder):
    h_train, h_test = encoder.transform(X_train), encoder.transform(X_test)
    scaler = StandardScaler().fit(h_train)
    return scaler.transform(h_train), scaler.transform(h_test)


def pixels(images):
    return images.reshape(len(images), -1) / 16


features = {
    "raw pixels": (pixels(X_train), pixels(X_test)),
    "untrained encoder": standardised(untrained),
    "SimCLR": standardised(simclr),
}

# %%
# Classes from few labels
# -----------------------
# Each figure is the mean accuracy on the test images over 10 random draws of the labelled images.


def accuracy(h_train, h_test, rows):
    model = LogisticRegression(max_iter=1000)
    return 100 * model.fit(h_train[rows], y_train[rows]).score(h_test, y_test)


def draw(n_labels, rng):
    """Choose n_labels training images of each class."""
    per_class = [np.flatnonzero(y_train == digit) for digit in range(10)]
    return np.concatenate([rng.choice(rows, n_labels, replace=False) for rows in per_class])


n_labels = [1, 2, 5, 10, 20, 50]
draws = [[draw(n, np.random.default_rng(seed)) for seed in range(10)] for n in n_labels]
table = {
    name: [np.mean([accuracy(*h, rows) for rows in group]) for group in draws]
    + [accuracy(*h, slice(None))]
    for name, h in features.items()
}

print("\nlabels per class   " + "".join(f"{n:>7}" for n in [*n_labels, "all"]))
for name, accuracies in table.items():
    print(f"{name:<19}" + "".join(f"{value:7.1f}" for value in accuracies))

# %%
# Plot the results
# ----------------

import matplotlib.pyplot as plt  # noqa: E402

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
positions = range(len(n_labels) + 1)
for name, accuracies in table.items():
    ax.plot(positions, accuracies, marker="o", label=name)
ax.set_xticks(positions, [*n_labels, "all"])
ax.set(xlabel="labels per class", ylabel="test accuracy (%)", title="Digits: logistic regression")
ax.grid(alpha=0.3)
ax.legend()
plt.show()
