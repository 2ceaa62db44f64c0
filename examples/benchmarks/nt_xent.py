"""NT-Xent of large batches: time and memory in this package, from one matrix, and in lightly.

    python nt_xent.py                           256 to 8192 images, and 32768 in tiles only
    python nt_xent.py --batches 512 1024        other batches
    python nt_xent.py --threads 1               if other programs keep the cores busy

Times the forward and backward pass of float32 projections (n, 128) at temperature 0.5 on the CPU.
Each measurement is a process of its own, and the sides take turns. A process first computes a small
batch, then the batch itself, whose peak of memory it records, less the memory before. It then
repeats the batch at least once, and for at least a second. The table has the medians over the
rounds. "one matrix" is the loss as the formula has it, with the matrix of all similarities. lightly
has to be installed (the extra `benchmarks`). Written to results/nt_xent.md. Linux only.
"""

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from common import Table, machine, nt_xent_of_matrix

from sklearn_simclr.losses import nt_xent

DIM, TEMPERATURE, ROUNDS = 128, 0.5, 3
SIDES = ("lightly", "one matrix", "this package")


def loss_of(side: str):
    """Return the loss of a side."""
    if side == "lightly":
        from lightly.loss import NTXentLoss

        return NTXentLoss(temperature=TEMPERATURE)
    loss = nt_xent_of_matrix if side == "one matrix" else nt_xent
    return lambda z1, z2: loss(z1, z2, temperature=TEMPERATURE)


def highest_mib(*, anew: bool = False) -> float:
    """Return the peak of resident memory of this process; `anew` resets it first."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return int(status["VmHWM"].split()[0]) / 1024


def measure(side: str, n: int) -> None:
    """Print the seconds of forward and backward, the MiB they add, and the gradient's length."""
    generator = torch.Generator().manual_seed(0)
    loss = loss_of(side)

    def step(n: int) -> tuple[float, float, float]:
        z = torch.randn(2, n, DIM, generator=generator).requires_grad_()
        before = highest_mib(anew=True)
        start = time.perf_counter()
        loss(*z).backward()
        return time.perf_counter() - start, highest_mib() - before, z.grad.norm().item()

    step(32)
    _, added, norm = step(n)
    seconds = []
    while sum(seconds) < 1:
        seconds.append(step(n)[0])
    print(median(seconds), added, norm)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    batches = [256, 512, 1024, 2048, 4096, 8192]
    parser.add_argument("--batches", type=int, nargs="+", default=batches, help="of all sides")
    parser.add_argument("--alone", type=int, nargs="*", default=[32768], help="this package only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        side, n = args.measure
        return measure(side, int(n))
    table = Table(
        "nt_xent",
        "NT-Xent: forward and backward, seconds, and MiB of memory beyond that of the projections",
        f"Projections (n, {DIM}) in float32, temperature {TEMPERATURE}, medians of {ROUNDS} "
        "rounds; the ratios are lightly's figure to this package's, the last column how far the "
        "lengths of the two gradients are apart, relatively. "
        f"{machine()}, lightly {version('lightly')}",
        [
            "n",
            *(f"{side} (s)" for side in SIDES),
            "ratio",
            *(f"{side} (MiB)" for side in SIDES),
            "ratio",
            "difference",
        ],
    )
    for n in args.batches + args.alone:
        sides = SIDES[-1:] if n in args.alone else SIDES
        rounds = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side in sides:
                command = [sys.executable, __file__, "--measure", side, str(n)]
                command += ["--threads", str(args.threads)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rounds[side].append([float(figure) for figure in output.split()])
        seconds, added, norms = (
            [median(figures) for figures in column]
            for column in zip(*(zip(*rounds[side], strict=True) for side in sides), strict=True)
        )
        table.add(f"{n:,}", *row(seconds, "{:.4f}"), *row(added, "{:.0f}"), difference(norms))
    table.save(append=False)


def row(figures: list[float], form: str) -> list[str]:
    """Return the cells of all sides and of the ratio; empty if only this package was measured."""
    cells = [form.format(figure) for figure in figures]
    if len(cells) == 1:
        return ["", "", *cells, ""]
    return [*cells, f"{figures[0] / figures[-1]:.1f}"]


def difference(norms: list[float]) -> str:
    return f"{abs(norms[0] / norms[-1] - 1):.0e}" if len(norms) > 1 else ""


if __name__ == "__main__":
    main()
