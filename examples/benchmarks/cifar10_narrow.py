"""10,000 photographs on a CPU: a narrow ResNet-18 on a part of CIFAR-10, for several run lengths.

    python cifar10_narrow.py --data cifar10.npz --epochs 4 12 36

Trains on 10,000 of the training images, without labels, and measures on all 10,000 test images.
The measures are the 10 nearest neighbours by cosine distance and logistic regression, both with the
labels of the training images, for raw pixels, the untrained encoder, and a training run of each
length. Results are added to results/cifar10_narrow.md.
"""

import argparse
import time

from common import Table, cifar10, flat, knn_accuracy, linear_accuracy, machine, subset

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 12, 36])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    X_train, y_train = subset(X_train, y_train, 10_000)

    table = Table(
        "cifar10_narrow",
        f"{len(X_train)} images, ResNetEncoder(18, width={args.width}), seed {args.seed}",
        machine(),
        ["features", "kNN (%)", "linear (%)", "loss", "seconds to fit"],
    )

    def row(label, h_train, h_test, *rest):
        data = (h_train, y_train, h_test, y_test)
        table.add(label, f"{knn_accuracy(*data):.1f}", f"{linear_accuracy(*data):.1f}", *rest)

    row("raw pixels", flat(X_train) / 255, flat(X_test) / 255)
    settings = [("untrained", 1, 1e-12)]
    settings += [(f"{epochs} epochs", epochs, "auto") for epochs in args.epochs]
    for label, epochs, learning_rate in settings:
        start = time.perf_counter()
        simclr = SimCLRTransformer(
            ResNetEncoder(width=args.width),
            learning_rate=learning_rate,
            max_epochs=epochs,
            random_state=args.seed,
        ).fit(X_train)
        seconds = time.perf_counter() - start
        features = simclr.transform(X_train), simclr.transform(X_test)
        row(label, *features, f"{simclr.loss_:.3f}", f"{seconds:.0f}")
    table.save()


if __name__ == "__main__":
    main()
