"""Image files compared with the array of their pixels: the cost of decoding, and the cost after it.

    python files.py FOLDER

FOLDER holds small images of one size in subfolders, such as CIFAR-10 as JPEG files. Each way of
passing them to a transformer trains and encodes in turn with the others, on one thread and with a
network so small that the cost of reading would show. The table has medians over the rounds, per
second of processor time: other work on the machine does not change it, and reading ahead does not
improve it. The first epoch does not count. "transform" is the whole call, including decoding where
the pixels are not in `cache_dir`. The features are compared with those of the array. Written to
results/files.md.
"""

import argparse
import tempfile
import time
import warnings
from statistics import median

import numpy as np
import torch
from common import Table, machine
from PIL import Image

from sklearn_simclr import SimCLRTransformer, _files
from sklearn_simclr.datasets import load_image_paths
from sklearn_simclr.encoders import ConvNetEncoder

KEPT_BYTES = _files._KEPT_BYTES


class Clock:
    """Callback that notes when each epoch ended."""

    def __init__(self):
        self.times = []

    def setup(self, estimator, context):
        """Do nothing."""

    def on_fit_task_begin(self, estimator, context):
        """Do nothing."""

    def on_fit_task_end(self, estimator, context):
        """Note the time."""
        if context.task_name == "epoch":
            self.times.append(time.process_time())

    def teardown(self, estimator, context):
        """Do nothing."""


def seconds(function, *args, **kwargs):
    """Call a function; return the processor time that it took and its result."""
    start = time.process_time()
    result = function(*args, **kwargs)
    return time.process_time() - start, result


def run(X, n_epochs: int, streamed: bool, **params):
    """Return the times of reading, of an epoch and of transform, and the features."""
    _files._KEPT_BYTES = 0 if streamed else KEPT_BYTES
    clock = Clock()
    simclr = SimCLRTransformer(
        ConvNetEncoder(width=8, n_layers=2), max_epochs=n_epochs, random_state=0, **params
    ).set_callbacks(clock)
    start = time.process_time()
    simclr.fit(X)
    epoch = (clock.times[-1] - clock.times[0]) / (n_epochs - 1)
    before = clock.times[0] - epoch - start
    encoding, features = seconds(simclr.transform, X)
    return before, epoch, encoding, features


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "batch_size=")
    torch.set_num_threads(1)
    paths = load_image_paths(args.folder).data
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    decoding = [seconds(_files.read_files, list(paths))[0] for _ in range(args.rounds)]
    with tempfile.TemporaryDirectory() as cache:
        ways = {
            "array": (images, False, {}),
            "files, kept in memory": (paths, False, {}),
            "files, in `cache_dir`": (paths, False, {"cache_dir": cache}),
            "files, decoded in every epoch": (paths, True, {}),
        }
        runs = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, (X, streamed, params) in ways.items():
                runs[name].append(run(X, args.epochs, streamed, **params))
    n, expected = len(paths), runs["array"][0][-1]
    table = Table(
        "files",
        f"{n} images {images.shape[1:]} as files and as an array: {args.rounds} rounds in turn",
        f"Decoding once, with all checks: {n / median(decoding):.0f} images/s of processor time "
        f"({', '.join(f'{n / s:.0f}' for s in decoding)}). {machine()}",
        ["X", "before the epochs, s", "epoch, images/s", "transform, images/s", "features"],
    )
    for name, of_way in runs.items():
        before, epoch, encoding = map(median, list(zip(*of_way, strict=True))[:3])
        equal = all(np.array_equal(features, expected) for *_, features in of_way)
        table.add(
            name,
            f"{before:.1f}",
            f"{n / epoch:.0f}",
            f"{n / encoding:.0f}",
            "equal" if equal else "DIFFERENT",
        )
    table.save(append=False)


if __name__ == "__main__":
    main()
