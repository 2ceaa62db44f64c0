"""
Clusters, neighbours, outliers and maps
=======================================

Features that were learned without labels serve wherever scikit-learn takes an array: here `KMeans`,
`NearestNeighbors`, `LocalOutlierFactor` and `TSNE` get the features h of digits, and beside them the
raw pixels. Labels are used only to measure what came out.

The whole script takes less than a minute on two CPU cores.
"""

import time

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import Normalizer

from sklearn_simclr import SimCLRTransformer

digits = load_digits()
images, labels = digits.images[:900], digits.target[:900]
new_images, new_labels = digits.images[900:], digits.target[900:]  # of other writers

start = time.perf_counter()
simclr = SimCLRTransformer(max_epochs=40, random_state=0).fit(images)
print(f"encoder trained in {time.perf_counter() - start:.0f} s")

# %%
# The loss compares directions, not lengths. So `Normalizer` brings the features to length 1, and what
# is near in the sense of the cosine is near in the ordinary sense.


def pixels(images):
    return images.reshape(len(images), -1) / 16


def features(images, encoder=simclr):
    return Normalizer().transform(encoder.transform(images))


spaces = {"pixels": pixels, "SimCLR": features}
arrays = {name: space(images) for name, space in spaces.items()}

# %%
# Clusters
# --------
# `KMeans` is told that there are ten clusters, and not what they are. The adjusted Rand index is 1 if
# they are the digits, and 0 if they are what chance would give.

print("\nKMeans, adjusted Rand index")
for name, array in arrays.items():
    clusters = KMeans(n_clusters=10, n_init=10, random_state=0).fit_predict(array)
    print(f"  {name:<8}{adjusted_rand_score(labels, clusters):.2f}")

# %%
# Neighbours
# ----------
# Each new image asks for the 10 nearest of the old ones. The precision is the share of them that show
# the same digit.

found = {}
print("\nNearestNeighbors, precision at 10")
for name, space in spaces.items():
    index = NearestNeighbors(n_neighbors=10).fit(arrays[name])
    found[name] = index.kneighbors(space(new_images), return_distance=False)  # (n, 10)
    precision = (labels[found[name]] == new_labels[:, None]).mean(axis=1)  # (n,)
    print(f"  {name:<8}{precision.mean():.3f}; at its worst {np.sort(precision)[:90].mean():.2f}")

# %%
# Outliers
# --------
# An encoder is trained on all digits but one, and `LocalOutlierFactor` learns what is usual among
# them. How well does it tell the missing digit from new images of the others? This is repeated for
# three digits; an area under the ROC curve of 0.5 is what guessing gives.

anomalies = [1, 4, 8]
auc = {name: [] for name in spaces}
for anomaly in anomalies:
    usual = images[labels != anomaly]
    encoder = SimCLRTransformer(max_epochs=20, random_state=0).fit(usual)
    for name, space in {"pixels": pixels, "SimCLR": lambda X: features(X, encoder)}.items():
        detector = LocalOutlierFactor(n_neighbors=10, novelty=True).fit(space(usual))
        unusualness = -detector.score_samples(space(new_images))
        auc[name].append(roc_auc_score(new_labels == anomaly, unusualness))

print("\nLocalOutlierFactor, ROC AUC")
print("  missing " + "".join(f"{digit:>7}" for digit in anomalies))
for name, values in auc.items():
    print(f"  {name:<8}" + "".join(f"{value:7.2f}" for value in values))
