"""Vectors: SCARF's views on three real tables, compared with raw values, with 10% of the labels.

    python vectors.py

The tables are scikit-learn's breast cancer, wine and digits (as vectors). The encoder is trained on
all training rows without labels; the labels of a tenth of them are drawn ten times. Logistic
regression on standardised columns uses the raw values, the features h, and both side by side; the
last row is the encoder fine-tuned on the labelled rows. Means and standard deviations over the
draws and the seeds are written to results/vectors.md.
"""

import argparse
import warnings

import numpy as np
from common import Table, flat, linear_accuracy, machine, vectors
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer

N_DRAWS = 10
TABLES = {"breast_cancer": {}, "wine": {"batch_size": 128}, "digits": {}}


def labelled_rows(y, draw: int) -> np.ndarray:
    """Choose a tenth of the rows, at least one of each class."""
    rows, _ = train_test_split(np.arange(len(y)), train_size=0.1, stratify=y, random_state=draw)
    return rows


def accuracies(data, seed: int, params: dict) -> dict[str, list[float]]:
    """Train once; return the accuracies of each kind of features over the draws."""
    X_train, y_train, X_test, y_test = data
    simclr = SimCLRTransformer(random_state=seed, **params).fit(X_train)
    h_train, h_test = simclr.transform(X_train), simclr.transform(X_test)
    kinds = {
        "raw values": (flat(X_train), flat(X_test)),
        "SCARF features": (h_train, h_test),
        "both": (np.hstack([flat(X_train), h_train]), np.hstack([flat(X_test), h_test])),
    }
    found = {kind: [] for kind in [*kinds, "fine-tuned"]}
    for draw in range(N_DRAWS):
        rows = labelled_rows(y_train, draw)
        for kind, (train, test) in kinds.items():
            found[kind].append(linear_accuracy(train[rows], y_train[rows], test, y_test))
        classifier = SimCLRClassifier(FrozenEstimator(simclr), random_state=seed)
        classifier.fit(X_train[rows], y_train[rows])
        found["fine-tuned"].append(100 * classifier.score(X_test, y_test))
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "batch_size=")
    table = Table(
        "vectors",
        f"Accuracy (%) with 10% of the labels, {N_DRAWS} draws x {args.seeds} seeds",
        machine(),
        ["table", "rows x columns", "features", "mean", "standard deviation"],
    )
    for name, params in TABLES.items():
        data = vectors(name)
        runs = [accuracies(data, seed, params) for seed in range(args.seeds)]
        for kind in runs[0]:
            values = np.concatenate([run[kind] for run in runs])
            shape = f"{len(data[0])} x {data[0].shape[1]}"
            table.add(name, shape, kind, f"{values.mean():.1f}", f"{values.std():.1f}")
    table.save(append=False)


if __name__ == "__main__":
    main()
