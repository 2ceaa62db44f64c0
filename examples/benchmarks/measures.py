"""Measures of features without labels, compared with measures that use labels.

    python measures.py

The training runs, on half of scikit-learn's digits, differ in one setting: length, temperature, or
views that change nothing. The measures without labels are compared with logistic regression with 5
labels per class and with nearest neighbours with all labels, both on the other half. Means over the
seeds are written to results/measures.md.
"""

import argparse

import numpy as np
from common import Table, digits, few_label_accuracy, knn_accuracy, machine

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.metrics import (
    alignment_scorer,
    contrastive_accuracy_scorer,
    rankme_scorer,
    uniformity_scorer,
)

SETTINGS = {
    "1 epoch": {"max_epochs": 1},
    "8 epochs": {"max_epochs": 8},
    "24 epochs": {},
    "24 epochs, temperature 0.1": {"temperature": 0.1},
    "24 epochs, views that change nothing": {"augmentation": lambda batch: batch},
}


def measure(data, seed: int, params: dict) -> list[float]:
    """Train; return the accuracies in percent and the measures, all on the test rows."""
    X_train, y_train, X_test, y_test = data
    simclr = SimCLRTransformer(**{"max_epochs": 24, "random_state": seed, **params}).fit(X_train)
    features = simclr.transform(X_train), y_train, simclr.transform(X_test), y_test
    return [
        few_label_accuracy(*features, n_labels=5, n_draws=5),
        knn_accuracy(*features),
        contrastive_accuracy_scorer(simclr, X_test),
        -alignment_scorer(simclr, X_test),
        -uniformity_scorer(simclr, X_test),
        rankme_scorer(simclr, X_test),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    data = digits(test_size=0.5)
    table = Table(
        "measures",
        f"digits: {len(data[0])} images to train on, {len(data[2])} to test on, {args.seeds} seeds",
        machine(),
        ["training", "5 labels (%)", "kNN (%)", "score", "alignment", "uniformity", "rankme"],
    )
    for name, params in SETTINGS.items():
        runs = [measure(data, seed, params) for seed in range(args.seeds)]
        few, knn, *measures, rank = np.mean(runs, axis=0)
        cells = [f"{few:.1f}", f"{knn:.1f}", *(f"{m:.2f}" for m in measures), f"{rank:.1f}"]
        table.add(name, *cells)
    table.save(append=False)


if __name__ == "__main__":
    main()
