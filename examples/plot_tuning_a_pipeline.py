"""
Tuning a pipeline
=================

The views, the encoder and the classifier of a pipeline can be searched together, like the
parameters of any pipeline: an option of an augmentation is ``simclr__augmentation__degrees``, one
of an encoder is ``simclr__encoder__width``. Here the search compares candidates by the accuracy of
the classifier on 500 labelled digits.
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation
from sklearn_simclr.encoders import ConvNetEncoder

digits = load_digits()
images, labels = digits.images[:500], digits.target[:500]

# %%
# Options have to be objects to be searched
# -----------------------------------------
# ``"auto"`` has no options, so we pass the augmentation and the encoder as objects. A short
# training run is enough to rank views, though not to get the most out of them.

model = Pipeline(
    [
        (
            "simclr",
            SimCLRTransformer(
                ConvNetEncoder(),
                augmentation=AffineAugmentation(),
                max_epochs=8,
                random_state=0,
            ),
        ),
        ("scale", StandardScaler()),
        ("classify", LogisticRegression(max_iter=1000)),
    ]
)
grid = {
    "simclr__augmentation__degrees": [0, 15, 180],
    "simclr__temperature": [0.2, 0.5],
    "classify__C": [0.01, 1],
}

# %%
# Each encoder is trained once
# ----------------------------
# The grid has 12 candidates and the split three folds, so there are 36 fits; but two candidates
# that differ only in the classifier have the same encoder. With ``memory`` the pipeline keeps
# fitted encoders, here in a folder that is removed at the end, and trains only 18. For two encoders
# to be the same, ``random_state`` has to be an integer. ``n_jobs`` would run fits in parallel: on
# several cores, not on one GPU.

with tempfile.TemporaryDirectory() as folder:
    model.set_params(memory=folder)
    search = GridSearchCV(model, grid, cv=3, refit=False).fit(images, labels)
print({name.rpartition("__")[2]: value for name, value in search.best_params_.items()})
print(f"accuracy in cross-validation: {search.best_score_:.3f}")

# %%
# What the search found
# ---------------------
# Views that rotate digits by any angle teach the encoder that a 6 is a 9. Whether they rotate a
# little or not at all matters less, in training runs as short as these. Each fold has a line: folds
# differ more than candidates do, so check whether all of them agree.

results = search.cv_results_
degrees = grid["simclr__augmentation__degrees"]
folds = np.array([results[f"split{fold}_test_score"] for fold in range(3)])
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for temperature, color in zip(grid["simclr__temperature"], ("tab:blue", "tab:orange"), strict=True):
    best = []  # over C, for each angle: (3 folds,)
    for angle in degrees:
        is_of = (results["param_simclr__temperature"] == temperature) & (
            results["param_simclr__augmentation__degrees"] == angle
        )
        best.append(100 * folds[:, np.flatnonzero(is_of)[folds[:, is_of].mean(0).argmax()]])
    ax.plot(range(len(best)), best, color=color, alpha=0.3)
    ax.plot(
        range(len(best)),
        np.mean(best, axis=1),
        color=color,
        marker="o",
        label=f"temperature {temperature}",
    )
ax.set_xticks(range(len(degrees)), [f"{angle}°" for angle in degrees])
ax.set(
    xlabel="views rotate by up to",
    ylabel="accuracy (%)",
    title="Best over C: 3 folds and their mean",
)
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# With your own data, search the views first, with short training runs and the encoder that "auto"
# chooses; then train with the best ones for longer.
# ``HalvingGridSearchCV(resource="simclr__max_epochs")`` does both in one. For a search without
# labels, see :ref:`sphx_glr_auto_examples_plot_model_selection.py`.
