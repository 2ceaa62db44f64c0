"""Large batches: memory and time of a training step that is divided into micro-batches.

    python large_batch.py                                  the committed table, half an hour
    python large_batch.py --steps 4096:512 4096:128        other batches, each with its micro-batch
    python large_batch.py --device cuda --steps 512:512 4096:4096 4096:512 4096:256 4096:128 4096:64

Each step runs in a process of its own, after a step of a few images that loads everything that is
loaded only once. A step makes views of random 32-pixel images, passes them through a ResNet-50 with
the stem for small images, computes NT-Xent over the whole batch, and takes a step of LARS. Memory
is that of the process (VmRSS and VmHWM, on Linux only), or what torch has allocated on the GPU: the
peak during the step, less the memory before. Time on a CPU is the sum over its cores, which hardly
depends on other work; on a GPU it is wall-clock time. Steps of up to 128 samples are repeated in
turn, and the table has their medians. The memory of the largest batch as a whole is extrapolated
linearly from the steps with whole batches. Written to results/large_batch.md.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import Table, machine

from sklearn_simclr._data import Samples
from sklearn_simclr._device import (
    describe,
    resolve_device,
    resolve_precision,
    synchronize,
)
from sklearn_simclr._network import build_network
from sklearn_simclr._training import Objective, train
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.losses import resolve_loss
from sklearn_simclr.optim import make_optimizer

SIDE, DEPTH, WARM_UP, REPEATED = 32, 50, 8, 128
STEPS = ["32:32", "64:64", "128:128", "128:64", "128:32", "512:64", "4096:64"]


def in_gib(device: torch.device, what: str) -> float:
    """Return the memory "now", or its "peak" since the last reset."""
    if device.type == "cuda":
        read = {"now": torch.cuda.memory_allocated, "peak": torch.cuda.max_memory_allocated}
        return read[what](device) / 2**30
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return int(status[{"now": "VmRSS", "peak": "VmHWM"}[what]].split()[0]) / 2**20


def set_peak_back(device: torch.device) -> None:
    """Reset the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def step(batch: int, micro_batch: int, name: str, n_threads: int) -> None:
    """Take one step; print the peak of memory above the start, the seconds, and the device."""
    torch.set_num_threads(n_threads)
    device = resolve_device(name)
    precision = resolve_precision("auto", device)
    mean, scale = (np.full(3, value, dtype=np.float32) for value in (0.5, 0.25))
    network = build_network(
        ResNetEncoder(DEPTH), (128, 2), (3, SIDE, SIDE), mean, scale, n_features=2048, seed=0,
        device=device,
    )  # fmt: skip
    optimizer = make_optimizer("lars", network, lr=0.1, weight_decay=1e-6)

    def take_step(size: int, micro_batch: int) -> float:
        rows = np.random.default_rng(0).integers(0, 256, (size, SIDE * SIDE * 3), dtype=np.uint8)
        records = train(
            network,
            optimizer,
            Samples(rows, (SIDE, SIDE, 3), False, (0.0, 255.0), device),
            Views(SimCLRAugmentation(), None, False),
            Objective(resolve_loss("nt_xent", 0.5), None, ""),
            n_epochs=1,
            first_epoch=0,
            batch_size=size,
            micro_batch=micro_batch,
            learning_rate_at=lambda step: 0.1,
            precision=precision,
            seed=0,
        )
        (record,) = records
        return record.loss

    take_step(WARM_UP, WARM_UP // 2)
    warnings.simplefilter("error")  # such as the warning of a halved micro-batch
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    before = in_gib(device, "now")
    set_peak_back(device)
    start = clock()
    take_step(batch, micro_batch)
    synchronize(device)
    seconds = clock() - start
    above = in_gib(device, "peak") - before
    print(json.dumps({"above": above, "seconds": seconds, "device": describe(device, precision)}))


def measure(batch: int, micro_batch: int, args) -> dict | None:
    """Take a step in another process; return None if it ran out of memory or was killed for it."""
    command = [sys.executable, __file__, "--one", str(batch), str(micro_batch)]
    command += ["--device", args.device, "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if done.returncode == -9 or "memory" in done.stderr:
        return None
    raise RuntimeError(done.stderr)


def measure_all(steps: list[tuple[int, int]], args) -> dict[tuple[int, int], list[dict]]:
    """Take all steps in turn, repeat the small ones, and drop those that ran out of memory."""
    found = defaultdict(list)
    for number in range(args.repeats):
        for both in steps:
            result = measure(*both, args) if number == 0 or both[0] <= REPEATED else None
            print(*both, result, file=sys.stderr, flush=True)
            found[both] += [result] if result else []
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", nargs="+", default=STEPS, help="batch:micro-batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)  # in its own process
    args = parser.parse_args()
    if args.one:
        return step(*args.one, args.device, args.threads)
    steps = [tuple(map(int, both.split(":"))) for both in args.steps]
    torch.set_num_threads(args.threads)  # which the table reports
    found = measure_all(steps, args)
    devices = {result["device"] for results in found.values() for result in results}
    table = Table(
        "large_batch",
        f"Memory and time of a training step, ResNet-{DEPTH} on images of {SIDE} x {SIDE} pixels",
        f"{', '.join(devices)}; medians of {args.repeats} for batches of up to {REPEATED}, one "
        f"step for larger ones. {machine()}",
        [
            "batch",
            "micro-batch",
            "peak above the start (GiB)",
            "ms a sample",
            "times whole batches",
        ],
    )
    peaks = {
        both: median(r["above"] for r in results) for both, results in found.items() if results
    }
    times = {
        both: 1000 * median(r["seconds"] for r in results) / both[0]
        for both, results in found.items()
        if results
    }
    whole = max((both for both in peaks if both[0] == both[1]), default=None)
    for both in steps:
        cells = [f"{both[0]:,}", "whole" if both[0] == both[1] else f"{both[1]:,}"]
        if both in peaks:
            ratio = f"{times[both] / times[whole]:.2f}" if whole else ""
            table.add(*cells, f"{peaks[both]:.2f}", f"{times[both]:.0f}", ratio)
        else:
            table.add(*cells, "out of memory", "", "")
    largest = max(batch for batch, _ in steps)
    at_once = sorted(both for both in peaks if both[0] == both[1])
    if len(at_once) > 1 and (largest, largest) not in peaks:
        batches = [batch for batch, _ in at_once]
        line = np.polyfit(batches, [peaks[both] for both in at_once], 1)
        table.add(f"{largest:,}", "whole", f"{np.polyval(line, largest):.0f} (worked out)", "", "")
    table.save(append=False)


if __name__ == "__main__":
    main()
