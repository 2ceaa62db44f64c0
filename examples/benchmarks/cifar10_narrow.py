"""10,000 photographs on a CPU: a narrow ResNet-18 on a part of CIFAR-10, at several run lengths.

    python cifar10_narrow.py --data cifar10.npz --epochs 5 15 45

Trains on 10,000 of the training images, without labels, and measures on all 10,000 test images:
10 nearest neighbours by cosine distance and logistic regression, both from the labels of the
10,000, for raw pixels, the untrained encoder, and a training of each length. Results are added to
results/cifar10_narrow.md.
"""

import argparse
import time
from pathlib import Path

from common import cifar10, flat, knn_accuracy, linear_accuracy, machine, subset

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 15, 45])
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    X_train, y_train = subset(X_train, y_train, 10_000)

    out = [
        f"\n## {len(X_train)} images, ResNetEncoder(18, width={args.width}), seed {args.seed}\n",
        f"{machine()}\n",
        "| features | kNN (%) | linear (%) | loss | seconds to fit |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(out), flush=True)

    def row(label, h_train, h_test, rest):
        data = (h_train, y_train, h_test, y_test)
        out.append(f"| {label} | {knn_accuracy(*data):.1f} | {linear_accuracy(*data):.1f} {rest}")
        print(out[-1], flush=True)

    row("raw pixels", flat(X_train) / 255, flat(X_test) / 255, "| | |")
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
        rest = f"| {simclr.loss_:.3f} | {seconds:.0f} |"
        row(label, simclr.transform(X_train), simclr.transform(X_test), rest)

    path = Path(__file__).parent / "results" / "cifar10_narrow.md"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
