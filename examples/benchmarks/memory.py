"""Memory: what a fit on an array on disk needs, in a process that cannot allocate more than 2 GiB.

    python memory.py                     4 GiB on disk, and half a GiB for comparison
    python memory.py --sizes 1 16        other sizes, in GiB

Each fit runs in a process of its own, whose private memory Linux limits (RLIMIT_DATA); pages of the
mapped file belong to the kernel, which reclaims them when it needs them. The images are noise of 96
x 96 pixels in float64; converting them all at once would copy the whole array. The private memory
(RssAnon) is sampled every few milliseconds. The table has its value before the fit and its peak in
`fit` and in `transform`. Written to results/memory.md. Linux only.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from common import Table, machine

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder

SIDE, CHANNELS, BATCH = 96, 3, 128
IMAGE_BYTES = SIDE * SIDE * CHANNELS * 8
BLOCK = 512  # images written at a time


def private_mib() -> float:
    """Return the private memory of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return int(status["RssAnon"].split()[0]) / 1024


class Peak(threading.Thread):
    """Samples the private memory until it is asked for the peak."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.ended = private_mib(), threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(0.005):
            self.peak = max(self.peak, private_mib())

    def result(self) -> float:
        self.ended.set()
        self.join()
        return self.peak


def write_images(path: Path, size_gib: float) -> int:
    """Write noise images of this total size; return their number."""
    n = int(size_gib * 2**30 / IMAGE_BYTES)
    shape = (n, SIDE, SIDE, CHANNELS)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
    rng = np.random.default_rng(0)
    for first in range(0, n, BLOCK):
        block = images[first : first + BLOCK]
        block[:] = rng.integers(0, 256, block.shape)
    images.flush()
    return n


def fit(path: str, limit_gib: float) -> None:
    """Fit and transform within the limit; print start, peaks and seconds."""
    torch.set_num_threads(1)
    images = np.load(path, mmap_mode="r")
    simclr = SimCLRTransformer(
        ResNetEncoder(width=0.125),
        augmentation="simclr",
        image_size=32,
        batch_size=BATCH,
        max_epochs=1,
        random_state=0,
        device="cpu",
    )
    simclr.fit(images[:BLOCK])  # loads everything that is loaded only once
    before = private_mib()
    limit = int(limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start, watch = time.perf_counter(), Peak()
    simclr.fit(images)
    fit_peak, seconds = watch.result(), time.perf_counter() - start
    watch = Peak()
    simclr.transform(images)
    print(before, fit_peak, watch.result(), seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.5, 4.0], help="GiB on disk")
    parser.add_argument("--limit", type=float, default=2.0, help="GiB of private memory")
    parser.add_argument("--fit", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.fit:
        return fit(args.fit, args.limit)
    table = Table(
        "memory",
        f"Private memory (MiB) of a fit in a process limited to {args.limit:g} GiB",
        f"float64 images of {SIDE} x {SIDE} x {CHANNELS} in a memmap, views of 32 pixels, "
        f"ResNet-18 at 1/8 width, batches of {BATCH}, one epoch. {machine()}",
        ["on disk (GiB)", "images", "before", "peak in fit", "peak in transform", "fit (s)"],
    )
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npy"
            n = write_images(path, size)
            command = [sys.executable, __file__, "--fit", str(path), "--limit", str(args.limit)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            *memory, seconds = map(float, output.split())
            table.add(f"{size:g}", f"{n:,}", *(f"{peak:.0f}" for peak in memory), f"{seconds:.0f}")
    table.save(append=False)


if __name__ == "__main__":
    main()
