"""
Monitoring a training run
=========================

Training without labels has no accuracy to look at, and its loss says little: it falls with easier
views as well as with better features. It helps to measure held-out images during training. This
example shows a training run on digits that goes well, and one that fails and is stopped.

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
# Measures per epoch
# ------------------
# ``MeasureHistory`` is a callback like those of scikit-learn. Every two epochs it measures the
# held-out images. Three of the measures need no labels. The fourth is the share of images whose
# label their ten nearest neighbours predict; training itself sees no labels.
#
# ``verbose=1`` prints what is trained, how fast, and how much time is left.

measures = ["contrastive_accuracy", "rankme", "neg_alignment", "knn"]
history = MeasureHistory(X_val, y_val, scoring=measures, every=2)
simclr = SimCLRTransformer(max_epochs=24, random_state=0, verbose=1).set_callbacks(history)
simclr.fit(X_train)

good = pd.DataFrame(history.history_)
print(good.drop(columns="fit").round(3).to_string(index=False))

# %%
# Stopping a run that fails
# -------------------------
# Training fails with a learning rate that is far too high. ``EarlyStopping`` monitors the
# contrastive accuracy of the held-out images, the share of views that find their partner among the
# views of at most 256 images. It stops training when this has not risen by 0.01 in three
# evaluations. In a grid search, this saves the time of candidates that lead nowhere. It needs no
# labels.

stopping = EarlyStopping(X_val, scoring="contrastive_accuracy", every=2, patience=3, min_delta=0.01)
history = MeasureHistory(X_val, y_val, scoring=measures, every=2)
spoilt = SimCLRTransformer(max_epochs=24, learning_rate=30.0, random_state=0)
spoilt.set_callbacks(stopping, history).fit(X_train)
print(f"stopped after {spoilt.n_iter_} of {spoilt.max_epochs} epochs")

bad = pd.DataFrame(history.history_)

# %%
# Compare the two runs
# --------------------
# The points at epoch 0 are for random weights. The features of the failed run are worse than these,
# as the labels of the neighbours show. The contrastive accuracy shows the same without labels. So
# does RankMe, the number of directions that the features use, which reveals collapsing features.
# The alignment measures how close the features of two views are. It is best if all features are the
# same, so never rely on it alone.

panels = {
    "loss": "Training loss",
    "contrastive_accuracy": "Contrastive accuracy",
    "knn": "Accuracy of neighbours (needs labels)",
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
