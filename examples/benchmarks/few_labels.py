"""Few labels: the classifier against logistic regression on h and training from scratch.

    python few_labels.py digits
    python few_labels.py cifar10 --data cifar10.npz --epochs 30 --max-iter 300 --draws 2 \\
        --n-test 2000

The encoder is pre-trained once on all training images, without labels: on scikit-learn's digits
with the defaults, or on 10,000 images of CIFAR-10 with temperature 0.2 and batches of 128. Then a
few labels are drawn, several times: 1, 5 and 10 per class, or 1% and 10% of the 10,000. "from
scratch" is the same network, trained on views of the labelled images alone, in a plain loop of its
own that keeps batch normalisation in training mode. Means and standard deviations over the draws
are added to results/few_labels.md. --pretrained FILE saves the pre-trained encoder, or uses it if
it exists.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from common import Table, cifar10, digits, flat, linear_accuracy, machine, subset
from sklearn.frozen import FrozenEstimator
from torch import nn

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation, SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, ResNetEncoder
from sklearn_simclr.optim import warmup_cosine

SCRATCH_STEPS, SCRATCH_BATCH = 1000, 64
CLASSIFIERS = {
    "SimCLRClassifier, linear": {"method": "linear", "distill": False},
    "SimCLRClassifier, fine-tuned": {"method": "fine_tuning", "distill": False},
    "SimCLRClassifier, defaults": {},
}


def from_scratch(encoder, augmentation, X, y, X_test, y_test, seed: int) -> float:
    """Return the accuracy of an encoder and a linear layer trained on labelled images alone (%)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batch, test = (torch.tensor(part).permute(0, 3, 1, 2) for part in (X, X_test))  # (n, c, h, w)
    labels = torch.as_tensor(y)
    features = encoder.build(tuple(batch.shape[1:]))
    width = features(batch[:2]).shape[1]
    mean, std = batch.mean((0, 2, 3), keepdim=True), batch.std((0, 2, 3), keepdim=True)
    model = nn.Sequential(features, nn.Linear(width, int(labels.max()) + 1))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    model.train().to(memory_format=torch.channels_last)
    for step in range(SCRATCH_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * warmup_cosine(step, SCRATCH_STEPS, SCRATCH_STEPS // 10)
        rows = torch.randint(len(labels), (SCRATCH_BATCH,), generator=generator)
        views = (augmentation(batch[rows], generator) - mean) / std
        loss = nn.functional.cross_entropy(model(views), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        found = torch.cat([model((part - mean) / std).argmax(1) for part in test.split(500)])
    return 100 * float((found.numpy() == y_test).mean())


def draw(y, n_labels: int, seed: int) -> np.ndarray:
    """Choose n_labels rows of each class."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(y == c), n_labels, replace=False) for c in np.unique(y)]
    return np.concatenate(rows)


def accuracies(simclr, scratch, data, rows, seed: int, max_iter) -> dict[str, float]:
    """Return the accuracy in percent of each way to learn from the labels of some rows."""
    X_train, y_train, X_test, y_test = data
    labels = np.full(len(y_train), -1)
    labels[rows] = y_train[rows]
    h_train, h_test = simclr.transform(X_train[rows]), simclr.transform(X_test)
    pixels = flat(X_train[rows]), y_train[rows], flat(X_test), y_test
    found = {
        "raw pixels, logistic regression": linear_accuracy(*pixels),
        "from scratch": scratch(X_train[rows], y_train[rows], X_test, y_test, seed),
        "h, logistic regression": linear_accuracy(h_train, y_train[rows], h_test, y_test),
    }
    for name, options in CLASSIFIERS.items():
        model = SimCLRClassifier(
            FrozenEstimator(simclr), max_iter=max_iter, random_state=seed, **options
        )
        found[name] = 100 * model.fit(X_train, labels).score(X_test, y_test)
    return found


def pretrained(path: Path | None, simclr, X):
    """Train, or load what an earlier call has saved."""
    if path and path.exists():
        return joblib.load(path)
    start = time.perf_counter()
    simclr.fit(X)
    print(f"pre-trained in {time.perf_counter() - start:.0f} s", flush=True)
    if path:
        joblib.dump(simclr, path)
    return simclr


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=["digits", "cifar10"])
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--n-test", type=int, help="test on a part of CIFAR-10's test images")
    parser.add_argument("--max-iter", type=int, help="of the classifier, if not the default")
    parser.add_argument("--pretrained", type=Path)
    args = parser.parse_args()
    if args.dataset == "digits":
        data, counts = digits(), (1, 5, 10)
        simclr, encoder = (
            SimCLRTransformer(max_epochs=args.epochs, random_state=0),
            ConvNetEncoder(),
        )
        augmentation, scale = AffineAugmentation(), 16
    else:
        X_train, y_train, *test = cifar10(args.data)
        test = subset(*test, args.n_test) if args.n_test else test
        data, counts = (*subset(X_train, y_train, 10_000), *test), (10, 100)
        encoder, augmentation, scale = ResNetEncoder(width=0.25), SimCLRAugmentation(), 255
        simclr = SimCLRTransformer(
            encoder, temperature=0.2, batch_size=128, max_epochs=args.epochs, random_state=0
        )
    simclr = pretrained(args.pretrained, simclr, data[0])

    def scratch(X, y, X_test, y_test, seed):
        images, test = (
            np.float32(part / scale).reshape(len(part), *part.shape[1:3], -1)
            for part in (X, X_test)
        )
        return from_scratch(encoder, augmentation, images, y, test, y_test, seed)

    table = Table(
        "few_labels",
        f"{args.dataset}: {len(data[0])} images, {len(data[2])} to test on, pre-trained for "
        f"{simclr.n_iter_} epochs, {args.draws} draws of the labels, "
        f"max_iter={args.max_iter or 'auto'}",
        machine(),
        ["learned from the labels", *(f"{n} a class (%)" for n in counts)],
    )
    rows = {}
    for n_labels in counts:
        runs = [
            accuracies(
                simclr, scratch, data, draw(data[1], n_labels, seed), seed, args.max_iter or "auto"
            )
            for seed in range(args.draws)
        ]
        for name in runs[0]:
            values = [run[name] for run in runs]
            rows.setdefault(name, []).append(f"{np.mean(values):.1f} ± {np.std(values):.1f}")
            print(n_labels, name, rows[name][-1], flush=True)
    for name, cells in rows.items():
        table.add(name, *cells)
    table.save()


if __name__ == "__main__":
    main()
