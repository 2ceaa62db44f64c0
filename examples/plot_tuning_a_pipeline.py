"""
Tuning a pipeline
=================

Views, encoder and classifier of a pipeline are searched together, as the parameters of any pipeline
are: an option of an augmentation is reached as ``simclr__augmentation__degrees``, one of an encoder
as ``simclr__encoder__width``. The digits here have few labels; their classes are what the search
goes by.
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
# ``"auto"`` has no options, so augmentation and encoder are given as objects. A short training is
# enough to rank views, if not to get the most out of them.

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
# The grid has 12 candidates and the split three folds, so 36 fits; but two candidates that differ
# in the classifier alone have the same encoder. With ``memory`` the pipeline keeps what was fitted,
# here in a folder that goes away in the end, and trains 18 encoders. An integer ``random_state`` is
# what makes the two the same. ``n_jobs`` would run folds side by side: on several cores, not on one
# GPU.

with tempfile.TemporaryDirectory() as folder:
    model.set_params(memory=folder)
    search = GridSearchCV(model, grid, cv=3, refit=False).fit(images, labels)
print({name.rpartition("__")[2]: value for name, value in search.best_params_.items()})
print(f"accuracy in cross-validation: {search.best_score_:.3f}")

# %%
# What the search has found
# -------------------------
# Views that turn digits by any angle teach the encoder that a 6 is a 9. Whether they turn by little
# or not at all matters less, in trainings as short as these. Each fold has a line: folds differ by
# more than candidates do, so look at whether all of them agree.

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
    xlabel="views turn by up to", ylabel="accuracy (%)", title="Best over C: 3 folds and their mean"
)
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# On data of your own, search the views first, with short trainings and the encoder that "auto"
# takes; then train the best ones for longer. ``HalvingGridSearchCV(resource="simclr__max_epochs")``
# does the two in one. A search without labels is :ref:`another matter
# <sphx_glr_auto_examples_plot_model_selection.py>`.
