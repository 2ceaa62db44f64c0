"""CIFAR-10 from beginning to end: training in several calls, then kNN, linear, fine-tuned accuracy.

    python cifar10.py default --data cifar10.npz --epochs 100
    python cifar10.py paper --data cifar10.npz --epochs 1000 --minutes 25

"paper" has the settings of appendix B.9: ResNet-50, LARS, batches of 1024, temperature 0.5.
"default" has the defaults of the package, with a whole ResNet-18 and batches of 512. "sgd" trains
the same network by the recipe of https://github.com/dkobak/simclr-cifar10: SGD with momentum,
milder views, and half the learning rate for runs of several hundred epochs.

Training is a call of `fit`, which leaves its checkpoints in the folder RECIPE (or --state). A call
of the script trains for --minutes at most and then interrupts `fit`; the next call continues from
the last checkpoint. Once all epochs are done, the script measures, and adds a row to
results/cifar10.md with the seconds of all calls. --n-images, --width and --n-test make the run
small enough to try on a CPU.
"""

import _thread
import argparse
import contextlib
import json
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from common import Table, cifar10, knn_accuracy, linear_accuracy, machine, subset
from sklearn.frozen import FrozenEstimator

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.optim import scaled_learning_rate

LABELLED_SHARES = (0.01, 0.1)


def recipe(name: str, n_epochs: int, width: float, batch_size: int | None) -> SimCLRTransformer:
    """Make the transformer of a recipe, for a number of epochs."""
    if name == "paper":
        batch_size = batch_size or 1024
        return SimCLRTransformer(
            ResNetEncoder(50, width=width),
            augmentation=SimCLRAugmentation(color_strength=0.5),
            temperature=0.5,
            optimizer="lars",
            learning_rate=scaled_learning_rate(batch_size, base=1.0),
            weight_decay=1e-6,
            batch_size=batch_size,
        )
    batch_size = batch_size or 512
    if name == "sgd":
        return SimCLRTransformer(
            ResNetEncoder(width=width),
            augmentation=SimCLRAugmentation(crop_scale=(0.2, 1.0), grayscale_p=0.1),
            temperature=0.5,
            optimizer="sgd",
            learning_rate=scaled_learning_rate(batch_size, base=0.06 if n_epochs <= 200 else 0.03),
            batch_size=batch_size,
        )
    return SimCLRTransformer(ResNetEncoder(width=width), batch_size=batch_size)


@contextlib.contextmanager
def interrupted_after(seconds: float):
    """Interrupt the block after some seconds, as Ctrl-C would."""
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), _thread.interrupt_main)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def train(simclr, X, minutes: float) -> float | None:
    """Train for some minutes; return the seconds of all calls once all epochs are done."""
    record = Path(simclr.checkpoint_dir) / "seconds.json"
    before = json.loads(record.read_text()) if record.exists() else 0.0
    start = time.perf_counter()
    with (
        interrupted_after(60 * minutes),
        contextlib.suppress(KeyboardInterrupt),  # of the first epoch; later, `fit` warns
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Training interrupted by user")
        simclr.fit(X)
    seconds = before + time.perf_counter() - start
    record.write_text(json.dumps(seconds))
    return seconds if getattr(simclr, "n_iter_", 0) == simclr.max_epochs else None


def fine_tuned_accuracy(simclr, data, share: float, seed: int) -> float:
    """Return the accuracy in percent after fine-tuning on a share of the labels."""
    X_train, y_train, X_test, y_test = data
    X_labelled, y_labelled = subset(X_train, y_train, round(share * len(X_train)), seed)
    classifier = SimCLRClassifier(FrozenEstimator(simclr), random_state=seed)
    return 100 * classifier.fit(X_labelled, y_labelled).score(X_test, y_test)


def evaluate(simclr, data, shares: tuple[float, ...], seed: int) -> list[str]:
    """Return the cells of a row: kNN, linear, fine-tuned on shares of the labels."""
    X_train, y_train, X_test, y_test = data
    features = simclr.transform(X_train), y_train, simclr.transform(X_test), y_test
    accuracies = [knn_accuracy(*features), linear_accuracy(*features)]
    accuracies += [fine_tuned_accuracy(simclr, data, share, seed) for share in shares]
    return [f"{value:.1f}" for value in accuracies]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=["default", "sgd", "paper"])
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=np.inf, help="of training in this call")
    parser.add_argument("--state", type=Path, help="folder that keeps the training")
    parser.add_argument("--n-images", type=int, help="train on a part of the images")
    parser.add_argument("--n-test", type=int, help="test on a part of the images")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, help="if not the recipe's")
    parser.add_argument("--no-fine-tuning", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    if args.n_images:
        X_train, y_train = subset(X_train, y_train, args.n_images)
    if args.n_test:
        X_test, y_test = subset(X_test, y_test, args.n_test)

    state = args.state or Path(args.recipe)
    state.mkdir(parents=True, exist_ok=True)
    simclr = recipe(args.recipe, args.epochs, args.width, args.batch_size)
    simclr.set_params(
        max_epochs=args.epochs, checkpoint_dir=state, random_state=args.seed, verbose=1
    )
    seconds = train(simclr, X_train, args.minutes)
    if seconds is None:
        print(f"Not all epochs are done; call again to go on from {state}.")
        return
    shares = () if args.no_fine_tuning else LABELLED_SHARES
    table = Table(
        "cifar10",
        f"{args.recipe}: {len(X_train)} images, {len(X_test)} to test on, {simclr.encoder!r}, "
        f"batches of {simclr.batch_size}, seed {args.seed}",
        machine(),
        ["epochs", "kNN (%)", "linear (%)", *(f"{s:.0%} of labels (%)" for s in shares), "seconds"],
    )
    cells = evaluate(simclr, (X_train, y_train, X_test, y_test), shares, args.seed)
    table.add(str(args.epochs), *cells, f"{seconds:.0f}")
    table.save()


if __name__ == "__main__":
    main()
