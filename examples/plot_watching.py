"""
Watching a training
===================

A training without labels has no accuracy to look at, and its loss says little: it falls with easier
views as well as with better features. What helps is to measure images that the training does not
see, while it goes on. Here are a training of the digits that goes well, and one that does not and
is stopped.

The whole script takes about 20 seconds on two CPU cores.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.callbacks import EarlyStopping, MeasureHistory

digits = load_digits()
X_train, X_val, y_train, y_val = train_test_split(
    digits.images, digits.target, train_size=800, stratify=digits.target, random_state=0
)

# %%
# Measures by epoch
# -----------------
# ``MeasureHistory`` is a callback of scikit-learn's kind. Every two epochs it measures the held-out
# images. Three of the measures need no labels. The fourth is the share of images that have the same
# label as their ten nearest neighbours; the training itself sees no label.
#
# ``verbose=1`` prints what is trained, how fast it goes, and how long it will still take.

measures = ["contrastive_accuracy", "rankme", "neg_alignment", "knn"]
history = MeasureHistory(X_val, y_val, scoring=measures, every=2)
simclr = SimCLRTransformer(max_epochs=24, random_state=0, verbose=1).set_callbacks(history)
simclr.fit(X_train)

good = pd.DataFrame(history.history_)
print(good.drop(columns="fit").round(3).to_string(index=False))

# %%
# Stopping what is not worth its time
# -----------------------------------
# A learning rate far too high spoils the training. ``EarlyStopping`` looks at the contrastive
# accuracy of the held-out images, the share of views that find their partner among all others. It
# stops when that has not risen by a hundredth in three evaluations. In a grid search this saves the
# time of candidates that lead nowhere. It takes no label.

stopping = EarlyStopping(X_val, scoring="contrastive_accuracy", every=2, patience=3, min_delta=0.01)
history = MeasureHistory(X_val, y_val, scoring=measures, every=2)
spoilt = SimCLRTransformer(max_epochs=24, learning_rate=30.0, random_state=0)
spoilt.set_callbacks(stopping, history).fit(X_train)
print(f"stopped after {spoilt.n_iter_} of {spoilt.max_epochs} epochs")

bad = pd.DataFrame(history.history_)

# %%
# Side by side
# ------------
# The points at epoch 0 are of random weights. The spoilt features are worse than these, as the
# labels of the neighbours show. The contrastive accuracy shows it without labels. So
# does RankMe, the number of directions that the features make use of: it tells of features that
# collapse. The alignment says how close the features of two views are. It is best where all
# features are alike, so never go by it alone.

panels = {
    "loss": "Loss of the training",
    "contrastive_accuracy": "Contrastive accuracy",
    "knn": "Accuracy of neighbours (reads labels)",
    "rankme": "RankMe",
    "neg_alignment": "Minus alignment",
}
fig, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
for ax, (name, title) in zip(axes.flat, panels.items(), strict=False):
    for rows, label, color in [(good, "0.03", "tab:blue"), (bad, "30, stopped", "tab:red")]:
        ax.plot(rows["epoch"], rows[name], marker="o", markersize=4, color=color, label=label)
    ax.set_title(title, fontsize="medium")
    ax.set(xlabel="epoch", xlim=(-1, 25))
    ax.grid(alpha=0.3)
axes[1, 2].axis("off")
axes[1, 2].legend(
    *axes[0, 0].get_legend_handles_labels(), title="learning rate", loc="center", frameon=False
)
plt.show()
