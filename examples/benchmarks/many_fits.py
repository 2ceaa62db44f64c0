"""Many fits: the same training runs one after the other, and in parallel with joblib's backends.

    python many_fits.py                  as many runs in parallel as there are cores
    python many_fits.py --n-jobs 4

Each run trains a narrow ResNet-18 on noise images of 32 x 32 pixels; only time is measured. All
ways are timed in turn in each of three rounds, with worker processes already started. The table has
the medians and their ratio to the runs one after the other. "Unguarded threads" are those of a
`ThreadPoolExecutor`, in which nothing limits torch's own threads. Written to results/many_fits.md.
"""

import argparse
import os
import statistics
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from common import Table, machine

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder

IMAGES = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)


def fit(seed: int) -> float:
    simclr = SimCLRTransformer(
        ResNetEncoder(width=0.125), batch_size=64, max_epochs=2, random_state=seed, device="cpu"
    )
    return simclr.fit(IMAGES).loss_


def by_joblib(backend: str, n_jobs: int, n_fits: int) -> None:
    joblib.Parallel(n_jobs, backend=backend)(joblib.delayed(fit)(seed) for seed in range(n_fits))


def unguarded(n_jobs: int, n_fits: int) -> None:
    with ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(fit, range(n_fits)))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Several threads of this process")
    n_fits = args.n_jobs
    ways = {
        "one after the other": lambda: [fit(seed) for seed in range(n_fits)],
        "loky": lambda: by_joblib("loky", args.n_jobs, n_fits),
        "threading": lambda: by_joblib("threading", args.n_jobs, n_fits),
        "multiprocessing (forked)": lambda: by_joblib("multiprocessing", args.n_jobs, n_fits),
        "unguarded threads": lambda: unguarded(args.n_jobs, n_fits),
    }
    ways["loky"]()  # starts its processes
    times = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            times[way].append(time.perf_counter() - start)
    table = Table(
        "many_fits",
        f"{n_fits} trainings, {args.n_jobs} at once, median of {args.rounds} rounds",
        machine(),
        ["way", "seconds", "to one after the other"],
    )
    medians = {way: statistics.median(values) for way, values in times.items()}
    for way, seconds in medians.items():
        table.add(way, f"{seconds:.1f}", f"{seconds / medians['one after the other']:.2f}")
    table.save(append=False)


if __name__ == "__main__":
    main()
