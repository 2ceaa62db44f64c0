"""
Grey images without an upright position
=======================================

Micrographs, X-rays and aerial pictures are often grey, and many have no up and down: rotated or
mirrored, they mean the same. The views should reflect that. This example uses generated grey images
of that kind, six shapes rotated by any angle, and compares three ways to make views of them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    ColorJitter,
    Compose,
    Crop,
    Flip,
    GaussianNoise,
    QuarterTurns,
)
from sklearn_simclr.datasets import make_shapes
from sklearn_simclr.encoders import ConvNetEncoder
from sklearn_simclr.inspection import ViewsDisplay

images, labels = make_shapes(1600, channels=1, random_state=0)
X_train, X_test, y_train, y_test = images[:1000], images[1000:], labels[:1000], labels[1000:]
print(f"images of shape {X_train.shape}, {X_train.dtype}")

# %%
# Three kinds of views
# --------------------
# "auto" chooses `AffineAugmentation` for images of one channel: small rotations, shifts and changes
# of scale, which suit digits and characters. Rotations by any angle and mirror images suit images
# with no upright position. `ColorJitter` changes the brightness and contrast of grey images, and
# skips saturation and hue; a warning says so.

turning = Compose(
    [
        ("crop", Crop(scale=(0.4, 1.0))),
        ("turns", QuarterTurns()),
        ("flip", Flip()),
        ("jitter", ColorJitter(strength=0.5)),
        ("noise", GaussianNoise(std=0.05)),
    ]
)
views = {
    "affine, up to 15°": AffineAugmentation(),
    "affine, any angle": AffineAugmentation(degrees=180),
    "crop, turns, mirror, contrast": turning,
}

# %%
# Look at the views before training, and ask: is this still the same thing?

simclr = SimCLRTransformer(augmentation=turning)
display = ViewsDisplay.from_estimator(simclr, X_train, n_samples=4, random_state=1)
plt.show()

# %%
# Measure with a few labels
# -------------------------
# For each kind of views, an encoder is trained without labels. Logistic regression is then trained
# on its features with five labels per class. The accuracy is the mean over ten draws of the labels.


def few_label_accuracy(h_train, h_test, n_per_class=5, n_draws=10):
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(n_draws):
        few = np.concatenate(
            [rng.choice(np.flatnonzero(y_train == c), n_per_class, False) for c in range(6)]
        )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores.append(classifier.fit(h_train[few], y_train[few]).score(h_test, y_test))
    return 100 * np.mean(scores)


def flat(X):
    return X.reshape(len(X), -1) / 255


accuracies = {"raw pixels": few_label_accuracy(flat(X_train), flat(X_test))}
for name, augmentation in views.items():
    simclr = SimCLRTransformer(
        ConvNetEncoder(width=16, n_layers=6),
        augmentation=augmentation,
        batch_size=128,
        max_epochs=10,
        random_state=0,
    ).fit(X_train)
    accuracies[name] = few_label_accuracy(simclr.transform(X_train), simclr.transform(X_test))
for name, accuracy in accuracies.items():
    print(f"{name:30s} {accuracy:.1f}%")

# %%

fig, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
bars = ax.barh(list(accuracies), list(accuracies.values()), color=["0.6", *["tab:blue"] * 3])
ax.bar_label(bars, fmt="%.0f%%", padding=3)
ax.axvline(100 / 6, color="black", linewidth=0.8, linestyle=":")
ax.set(xlabel="accuracy with 5 labels per class (%); dotted: chance", xlim=(0, 100))
ax.invert_yaxis()
plt.show()

# %%
# With your own data, start from what does not matter in your images. If size carries meaning, as
# that of cells may, raise the lower end of ``Crop(scale=...)``; if brightness does, as in X-rays,
# lower the strength of `ColorJitter` or leave it out. Pass images of 16 bits, or with other than 1
# or 3 channels, as an array, whose range `fit` learns; ``ViewsDisplay(channels=...)`` shows the
# latter.
