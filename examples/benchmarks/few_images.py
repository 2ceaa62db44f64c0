"""Few unlabelled images: how good features become with their number.

    python few_images.py

Trains with the defaults on 50 to 1,347 of scikit-learn's digits, without labels, and scores
logistic regression on 450 test images, from 1 and from 5 labels per class: means over ten draws of
the labels, and two training runs, each with other images. Fewer images also mean fewer training
steps. Features are standardised with the same images; raw pixels do better as they are. The table
replaces results/few_images.md.
"""

import argparse

import numpy as np
from common import Table, digits, few_label_accuracy, flat, machine, subset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRTransformer

LABELS = (1, 5)


def logistic_accuracy(h_train, y_train, h_test, y_test) -> float:
    """Return the accuracy in percent of logistic regression on features as they are."""
    return 100 * LogisticRegression(max_iter=1000).fit(h_train, y_train).score(h_test, y_test)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 400, 800, 1347])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = digits(450)

    def scores(h_train, h_test):
        data = h_train, y_train, h_test, y_test
        return [few_label_accuracy(*data, n, accuracy=logistic_accuracy) for n in LABELS]

    table = Table(
        "few_images",
        f"digits: {args.epochs} epochs, seeds {args.seeds}",
        machine(),
        ["unlabelled images", *(f"{n} label{'s' * (n > 1)} per class (%)" for n in LABELS)],
    )
    table.add(
        "raw pixels", *(f"{score:.1f}" for score in scores(flat(X_train) / 16, flat(X_test) / 16))
    )
    for size in args.sizes:
        runs = []
        for seed in args.seeds:
            images = X_train
            if size < len(X_train):
                images, _ = subset(X_train, y_train, size, seed)
            simclr = SimCLRTransformer(max_epochs=args.epochs, random_state=seed)
            model = make_pipeline(simclr, StandardScaler()).fit(images)
            runs.append(scores(model.transform(X_train), model.transform(X_test)))
        table.add(f"{size:,}", *(f"{score:.1f}" for score in np.mean(runs, axis=0)))
    table.save(append=False)


if __name__ == "__main__":
    main()
