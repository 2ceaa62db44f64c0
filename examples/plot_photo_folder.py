"""
A folder of your own photographs
================================

Photographs are often kept in folders, one for each class, and only some of them have been sorted.
This example goes from such a folder to a classifier: list the files, learn features from all of
them, learn the classes from a few, and look at the mistakes.

So that nothing has to be downloaded, the folder is first filled with JPEGs of generated images. To
use your own photographs, leave that part out and set `root`.
"""

import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.datasets import load_image_paths, make_shapes
from sklearn_simclr.encoders import ConvNetEncoder

temporary = tempfile.TemporaryDirectory()
root = Path(temporary.name) / "photos"
names = ["cross", "disc", "ring", "square", "star", "triangle"]
for number, (image, label) in enumerate(zip(*make_shapes(1000, random_state=0), strict=True)):
    path = root / names[label] / f"{number:04}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=90)

broken = root / "star" / "broken.jpg"  # as it happens: a copy that was cut off
_ = broken.write_bytes(path.read_bytes()[:300])

# %%
# List the files
# --------------
# :func:`~sklearn_simclr.datasets.load_image_paths` decodes nothing. It returns the paths and, from
# the names of the folders, their classes. The paths are an array of strings, which can be split and
# shuffled like any other X.

photos = load_image_paths(root)
print(f"{len(photos.data)} files of {len(photos.target_names)} classes: {photos.target_names}")
print("the first:", Path(photos.data[0]).relative_to(root))

train, test, y_train, y_test = train_test_split(
    photos.data, photos.target, test_size=0.3, stratify=photos.target, random_state=0
)

# %%
# Learn features from all files
# -----------------------------
# Every file is read before training starts. Bad files are named in an error; with
# ``on_bad_files="skip"`` `fit` continues without them and names them in a warning. Files of one
# size, with up to 256 pixels per side, are used as they are, as in this example. Larger photographs
# are resized to `image_size`: 64 or 96 is a good start. With `cache_dir` they are decoded only
# once: another `fit` finds their pixels there.
#
# The shapes are small and can be anywhere in the image, so we let crops keep more of the image than
# they do by default. Colours mean nothing here, so we let them change more.

simclr = SimCLRTransformer(
    ConvNetEncoder(16, n_layers=6),  # small and quick; "auto" is a ResNet
    augmentation=SimCLRAugmentation(crop_scale=(0.3, 1), color_strength=1),
    batch_size=64,
    max_epochs=25,
    cache_dir=Path(temporary.name) / "cache",
    on_bad_files="skip",
    n_jobs=2,  # threads that decode
    random_state=0,
)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    simclr.fit(train)
for warning in caught:
    print(f"Warning: {warning.message}".replace(str(root), "photos"))

# %%
# Learn the classes from a few
# ----------------------------
# `predict` has to return a row for each file, so from here on bad files are errors, and we remove
# the broken one. Ten photographs of each class have been sorted by hand. `FrozenEstimator` makes
# the `Pipeline` use the encoder as it is, and the pipeline goes from paths to classes.

train, y_train = train[train != str(broken)], y_train[train != str(broken)]
test, y_test = test[test != str(broken)], y_test[test != str(broken)]
rng = np.random.default_rng(0)
sorted_by_hand = np.concatenate(
    [rng.choice(np.flatnonzero(y_train == label), 10, replace=False) for label in range(len(names))]
)

model = make_pipeline(FrozenEstimator(simclr), StandardScaler(), LogisticRegression(max_iter=1000))
model.fit(train[sorted_by_hand], y_train[sorted_by_hand])
predicted = model.predict(test)


def pixels(paths):
    return np.stack([np.asarray(Image.open(path)).ravel() / 255 for path in paths])


raw = LogisticRegression(max_iter=1000)
raw.fit(pixels(train[sorted_by_hand]), y_train[sorted_by_hand])
print(f"{len(sorted_by_hand)} labels, {len(test)} photographs to test on; guessing would get 17%")
print(f"logistic regression on pixels: {raw.score(pixels(test), y_test):.0%}")
print(f"logistic regression on SimCLR: {np.mean(predicted == y_test):.0%}")

# %%
# Look at the mistakes
# --------------------
# Which classes are confused with which, and the mistakes of which the model was most certain.

fig = plt.figure(figsize=(10, 4.8), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=[1.15, 1])
left.suptitle("test photographs")
ax = left.subplots()
ConfusionMatrixDisplay.from_predictions(
    y_test, predicted, display_labels=names, cmap="Blues", colorbar=False, ax=ax
)
ax.tick_params(axis="x", rotation=30)

sureness = model.predict_proba(test).max(axis=1)
mistakes = np.flatnonzero(predicted != y_test)
mistakes = mistakes[np.argsort(-sureness[mistakes])]
right.suptitle("the most certain mistakes")
for ax, row in zip(right.subplots(3, 4).flat, mistakes, strict=False):
    ax.imshow(Image.open(test[row]))
    ax.set_title(f"{names[y_test[row]]},\nnot {names[predicted[row]]}", fontsize=8)
    ax.axis("off")
plt.show()

temporary.cleanup()

# %%
# With your own photographs
# -------------------------
# - Set `root` to your folder. A folder without subfolders works as well: its photographs have no
#   labels, and `photos.target` is -1 throughout.
# - Start with ``image_size=64``, the default encoder and views, and ``verbose=1``. Expect to wait:
#   the user guide says how long training takes. Or use a GPU.
# - `SimCLRClassifier` does both parts in one `fit`, and then fine-tunes the encoder.
