"""All benchmarks of the speed on a GPU, in calls of less than ten minutes.

    python gpu_suite.py --data cifar10.npz --out gpu_results --minutes 9

Runs one stage after the other, skips those that an earlier call with the same --out has completed,
and starts none that would not finish in time; training runs that measure quality continue where
they stopped. Call the script until it says that all is done. The tables are in --out, and all
together in gpu_suite.md. --small tries everything in sizes too small to be meaningful, on any
device.

It measures

- views per second on the device;
- time and memory of NT-Xent for 8192 images;
- training of a ResNet-18 at 32 pixels in batches of 512, with kernels that start one by one,
  recorded as CUDA graphs, and compiled as well: seconds per epoch, model FLOP utilisation, and the
  share of the time in which the device has work;
- the same network trained by lightly, if it is installed, and by other code, if --script is
  simclr-cifar10.py of https://github.com/dkobak/simclr-cifar10;
- steps of smaller networks, and the parts of a step;
- `transform` compared with a bare forward pass;
- a step of 4096 images with a ResNet-50;
- the time that 50, 140 and 600 epochs of SGD and 140 of the defaults take on CIFAR-10, and the
  quality of the features; the same for 50 epochs of the other code, if --script is given.
"""

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections import deque
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torchvision
from common import (
    Table,
    cifar10,
    features_of_network,
    knn_accuracy,
    linear_accuracy,
    machine,
    nt_xent_of_matrix,
    subset,
)
from PIL import Image
from step_profile import CASES, Training, noise
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._data import shuffled_batches
from sklearn_simclr._device import resolve_precision, synchronize
from sklearn_simclr._random import cpu_generator
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.projection import projection_head

NOMINAL_TFLOPS = {"H100": 989, "H200": 989, "A100": 312}  # dense bfloat16, according to the vendor
WAYS = {"recorded, compiled": True, "recorded": "auto", "one by one": False}  # how kernels start
HERE = Path(__file__).parent
OURS, DIM = "this package", 128
N_EPOCHS_OF_SCRIPT = 50  # of nearly eight seconds


def median_seconds(function, device: torch.device, rounds: int = 5) -> float:
    """Return the median seconds of a call, including the device's work, after two warm-up calls."""
    seconds = []
    for _ in range(2 + rounds):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def matmul_tflops(device: torch.device, side: int) -> float:
    """Return the rate of a square product in bfloat16, in 10**12 operations per second."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / median_seconds(lambda: a @ a, device) / 1e12


def machine_stage(args) -> None:
    table = Table("gpu_machine", "The machine", machine(), ["what", "figure"])
    side = 256 if args.small else 8192
    rate = matmul_tflops(args.device, side)
    table.add(f"product of {side} x {side} in bfloat16", f"{rate:.1f} TFLOP/s")
    table.save(append=False)


def views_stage(args) -> None:
    table = Table(
        "gpu_views",
        "Views a second, from batches of bytes on the device",
        machine(),
        ["setting", "batch", "views a second"],
    )
    settings = [("32 px, no blur", 32, 32, 0.5, 512), ("224 px, blur", 256, 224, 1.0, 128)]
    generator = torch.Generator().manual_seed(0)
    for setting, side, size, strength, n in settings:
        n = 8 if args.small else n
        images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, device=args.device)
        augmentation = SimCLRAugmentation(size=size, color_strength=strength)
        seconds = median_seconds(partial(augmentation, images, generator), args.device)
        table.add(setting, f"{n}", f"{n / seconds:,.0f}")
    table.save(append=False)


def nt_xent_stage(args) -> None:
    n = 256 if args.small else 8192
    losses = {OURS: nt_xent, "one matrix": nt_xent_of_matrix}
    if find_spec("lightly"):
        from lightly.loss import NTXentLoss

        losses["lightly"] = NTXentLoss(temperature=0.5)
    table = Table(
        "gpu_nt_xent",
        f"NT-Xent of {n:,} images, {DIM} dimensions, forward and backward",
        machine(),
        ["loss", "ms", "MiB beyond the projections"],
    )
    for name, loss in losses.items():
        z = torch.randn(2, n, DIM, device=args.device, requires_grad=True)

        def both_ways(loss=loss, z=z):
            z.grad = None
            loss(*z).backward()

        seconds, memory = median_seconds(both_ways, args.device), ""
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            both_ways()
            memory = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"
        table.add(name, f"{1000 * seconds:.1f}", memory)
    table.save(append=False)


def flops_of_a_step(encoder: ResNetEncoder, n: int) -> int:
    """Count the floating-point operations of forward and backward for two views of n samples."""
    network = nn.Sequential(encoder.build((3, 32, 32)), head_of(encoder))
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(4, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() * 2 * n // 4


def head_of(encoder: ResNetEncoder) -> nn.Module:
    return projection_head(round(512 * encoder.width), DIM, 2)


def training_of(
    encoder, images, batch_size: int, compiles: bool | str, args, optimizer: str = "muon"
) -> Training:
    """Prepare a training run whose kernels start as `compiles` says."""
    simclr = SimCLRTransformer(
        encoder,
        optimizer=optimizer,
        batch_size=batch_size,
        random_state=0,
        device=str(args.device),
        compile=compiles,
    )
    return Training.of(simclr, images)


def share_of_work(training: Training, device: torch.device) -> str:
    """Return the share in percent of the second epoch in which a GPU has work."""
    if device.type != "cuda":
        return ""
    run = training.run
    epochs = training.simclr._epochs(run, run.n_done + 2, lambda step: 1e-3)
    next(epochs)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        next(epochs)  # reads the loss, which waits for the device
        seconds = time.perf_counter() - start
    events = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in events)
    busy, reached = 0.0, 0.0
    for begin, end in spans:  # kernels may overlap
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return f"{min(100, busy / 1e4 / seconds):.0f}"


def views_seconds(training: Training, batch_size: int, device: torch.device) -> float:
    """Return the seconds of an epoch's views alone, made on the device as in training."""
    run, generator = training.run, cpu_generator(0)
    indices = shuffled_batches(len(run.samples), batch_size, generator)
    pairs = run.views.pairs
    if device.type == "cuda":
        pairs = run.views.replayed_pairs(2 * len(indices), device)
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        deque(pairs(run.samples.batches(indices), generator), maxlen=0)
        synchronize(device)
    return time.perf_counter() - start


def training_stage(args) -> None:
    images, encoder, batch_size = training_images(args), encoder_of(args), batch_size_of(args)
    flops = len(images) // batch_size * flops_of_a_step(encoder, batch_size)
    measured = matmul_tflops(args.device, 256 if args.small else 8192)
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else ""
    nominal = next((rate for model, rate in NOMINAL_TFLOPS.items() if model in name), None)
    table = Table(
        "gpu_training",
        f"Training {encoder!r} on {len(images):,} images, batches of {batch_size}",
        f"Products of large matrices: {measured:.0f} TFLOP/s here"
        + (f", {nominal} by the vendor. " if nominal else ". ")
        + machine(),
        [
            "kernels",
            "seconds an epoch",
            "images a second",
            "TFLOP/s of the model",
            "share of products (%)",
            "of the vendor's rate (%)",
            "GPU at work (%)",
        ],
    )
    for way, compiles in WAYS.items():
        training = training_of(encoder, images, batch_size, compiles, args)
        seconds = statistics.median(training.epoch_seconds(1 if args.small else 2))
        rate = flops / seconds / 1e12
        table.add(
            way,
            f"{seconds:.2f}",
            f"{len(images) / seconds:,.0f}",
            f"{rate:.1f}",
            f"{100 * rate / measured:.0f}",
            f"{100 * rate / nominal:.0f}" if nominal else "",
            share_of_work(training, args.device),
        )
    alone = views_seconds(training, batch_size, args.device)
    table.add("the views alone", f"{alone:.2f}", f"{len(images) / alone:,.0f}")
    table.save(append=False)


def steps_stage(args) -> None:
    n_steps, batch_size = (4, 8) if args.small else (40, 256)
    table = Table(
        "gpu_steps",
        f"Milliseconds of a step of `fit`, batches of {batch_size} images of noise",
        machine(),
        ["network", "side", *WAYS],
    )
    for encoder, side, channels in CASES[: 1 if args.small else None]:
        images, cells = noise(n_steps * batch_size, side, channels), []
        for compiles in WAYS.values():
            training = training_of(encoder, images, batch_size, compiles, args)
            seconds = statistics.median(training.epoch_seconds(2))
            cells.append(f"{1000 * seconds / n_steps:.2f}")
        table.add(repr(encoder), str(side), *cells)
    table.save(append=False)


def seconds_of_ours(images, encoder, batch_size: int, optimizer: str, args) -> float:
    """Return the median seconds of the epochs after the first, recorded and compiled."""
    training = training_of(encoder, images, batch_size, True, args, optimizer)
    return statistics.median(training.epoch_seconds(1 if args.small else 4))


def seconds_of_lightly(images, encoder, batch_size: int, args) -> float:
    """Return the seconds of lightly's second epoch."""
    from peers import train_lightly

    epochs = train_lightly(
        encoder.build((3, 32, 32)),
        round(512 * encoder.width),
        images,
        n_epochs=2,
        batch_size=batch_size,
        n_workers=args.workers,
        device=args.device.type,
        precision=resolve_precision("auto", args.device),
    )
    next(epochs)  # the workers start
    start = time.perf_counter()
    next(epochs)
    return time.perf_counter() - start


class Pictures(Dataset):
    """Replaces torchvision's CIFAR10, with the images of --data."""

    rows = ()

    def __init__(self, root, train=True, transform=None, **unused):
        self.transform = transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.rows[i])), 0


def run_script(args, images, **settings) -> tuple[dict, str]:
    """Train as the public script does; return its variables and what it printed."""
    source = args.script.read_text().split("training_end_time = ")[0]
    source = source.replace('device = "cuda"', f'device = "{args.device}"')
    for name, value in {"PRINT_EVERY_EPOCHS": 1, **settings}.items():
        source = re.sub(rf"^{name} = [\d.]+", f"{name} = {value}", source, count=1, flags=re.M)
    Pictures.rows = images
    told, variables = io.StringIO(), {"__name__": "__main__"}
    original, torchvision.datasets.CIFAR10 = torchvision.datasets.CIFAR10, Pictures
    try:
        with contextlib.redirect_stdout(told):
            exec(compile(source, args.script, "exec"), variables)
    finally:
        torchvision.datasets.CIFAR10 = original
    return variables, told.getvalue()


def seconds_of_script(args, images) -> float:
    """Return the seconds of the second training epoch, as the public script itself reports them."""
    _, told = run_script(args, images, N_EPOCHS=2)
    return float(re.findall(r"([\d.]+) s$", told, flags=re.M)[-1])


def script_stage(args) -> None:
    """Measure the quality that the public script reaches on the same images."""
    X_train, y_train, X_test, y_test = data_of(args)
    n_epochs = 1 if args.small else N_EPOCHS_OF_SCRIPT
    table = Table(
        "gpu_script",
        f"{args.script.name}: {len(X_train)} images, {len(X_test)} to test on",
        machine(),
        ["epochs", "kNN (%)", "linear (%)", "seconds"],
    )
    start = time.perf_counter()
    # The script's own advice for 100 epochs and fewer.
    variables, _ = run_script(args, X_train, N_EPOCHS=n_epochs, BASE_LR=0.06)
    seconds = time.perf_counter() - start
    # The script does not normalise its images.
    encode = partial(features_of_network, variables["model"].backbone, device=args.device)
    features = encode(X_train), y_train, encode(X_test), y_test
    accuracies = [f"{measure(*features):.1f}" for measure in (knn_accuracy, linear_accuracy)]
    table.add(str(n_epochs), *accuracies, f"{seconds:.0f}")
    table.save(append=False)


def peers_stage(args) -> None:
    images, encoder, batch_size = training_images(args), encoder_of(args), batch_size_of(args)
    others = {"lightly": seconds_of_lightly} if find_spec("lightly") else {}
    if args.script:
        others[args.script.name] = lambda *_: seconds_of_script(args, images)
    table = Table(
        "gpu_peers",
        f"An epoch of {len(images):,} images, batches of {batch_size}, compared with other code",
        f"Of this package recorded, compiled, cuDNN's algorithms tried; of others the second "
        f"epoch, with {args.workers} workers. {machine()}",
        ["code", "seconds", "as multiples of this package's", "with Muon"],
    )
    ours = []
    for optimizer in ("sgd", "muon"):
        ours.append(seconds_of_ours(images, encoder, batch_size, optimizer, args))
        table.add(f"{OURS}, optimizer={optimizer!r}", f"{ours[-1]:.2f}")
    for name, measure in others.items():
        theirs = measure(images, encoder, batch_size, args)
        table.add(name, f"{theirs:.2f}", *(f"{theirs / own:.1f}" for own in ours))
    table.save(append=False)


def data_of(args) -> tuple[np.ndarray, ...]:
    X_train, y_train, X_test, y_test = cifar10(args.data)
    if args.small:
        return *subset(X_train, y_train, 64), *subset(X_test, y_test, 64)
    return X_train, y_train, X_test, y_test


def training_images(args) -> np.ndarray:
    return data_of(args)[0]


def encoder_of(args) -> ResNetEncoder:
    return ResNetEncoder(width=1 / 16 if args.small else 1.0)


def batch_size_of(args) -> int:
    return 16 if args.small else 512


def script(*words: str, sliced: bool = False):
    """Make a stage from another script; if sliced, pass it the minutes that are left."""

    def stage(args) -> bool:
        command = [sys.executable, "-u", str(HERE / words[0]), *words[1:]]
        command = [word.format(data=args.data, out=args.out) for word in command]
        if sliced:
            # The measurements after training take time as well.
            minutes = max(0.1, (args.end - time.monotonic() - args.after) / 60)
            command += ["--minutes", f"{minutes:.2f}"]
        is_done = True
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                is_done &= "call again" not in line
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return is_done

    return stage


def stages(args) -> dict[str, tuple]:
    """Return for each stage its name, what it runs, and the least number of seconds it needs."""
    device, small = str(args.device), args.small
    steps = ["4:4", "4:2"] if small else ["512:512", "4096:4096", "4096:512", "4096:128"]
    quality = ["--data", "{data}", "--no-fine-tuning"]
    if small:
        quality += ["--n-images", "64", "--n-test", "64", "--width", "0.0625"]
        quality += ["--batch-size", "16"]

    def trained(recipe: str, n_epochs: int):
        """Train by a recipe over several calls, with its state in --out."""
        state = f"{{out}}/{recipe}-{n_epochs}"
        words = "cifar10.py", recipe, *quality, "--epochs", str(n_epochs), "--state", state
        return script(*words, sliced=True), args.after + 30

    equal, short, long = (1, 2, 3) if small else (N_EPOCHS_OF_SCRIPT, 140, 600)
    profiled = ["--batch-size", "8", "--steps", "1", "--epochs", "1"] if small else []
    compared = ["--scale", "0.05", "--rounds", "1", "--batch-sizes", "8"]
    compared = compared if small else ["--scale", "16"]
    return {
        "machine": (machine_stage, 20),
        "views": (views_stage, 30),
        "nt_xent": (nt_xent_stage, 40),
        "training": (training_stage, 120),
        "steps": (steps_stage, 90),
        "step_profile": (script("step_profile.py", "--device", device, *profiled), 60),
        "peers": (peers_stage, 180),
        "transform": (script("transform.py", "--device", device, *compared), 90),
        "large_batch": (script("large_batch.py", "--device", device, "--steps", *steps), 150),
        **({f"script, {equal} epochs": (script_stage, 480)} if args.script else {}),
        f"sgd, {equal} epochs": trained("sgd", equal),
        f"sgd, {short} epochs": trained("sgd", short),
        f"sgd, {long} epochs": trained("sgd", long),
        f"default, {short} epochs": trained("default", short),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help=".npz file, or folder to download to")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="+", help="names of stages")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count()))
    parser.add_argument("--script", type=Path, help="other code to compare with")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.small:
        sys.exit("torch sees no GPU here. Pass --small to try the suite in sizes that say nothing.")
    args.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.end, args.after = time.monotonic() + 60 * args.minutes, 0 if args.small else 60
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["BENCHMARK_RESULTS"] = str(args.out.resolve())
    record = args.out / "done.json"
    done = json.loads(record.read_text()) if record.exists() else []
    todo = {name: stage for name, stage in stages(args).items() if name not in done}
    for name, (stage, seconds) in todo.items():
        if args.only and name not in args.only:
            continue
        if time.monotonic() + (0 if args.small else seconds) > args.end:
            print(f"No time is left for {name!r}.")
            break
        try:
            if stage(args) is not False:
                done.append(name)
                record.write_text(json.dumps(done))
        except Exception:  # the other stages are still worth running
            traceback.print_exc()
    tables = [path for path in sorted(args.out.glob("*.md")) if path.name != "gpu_suite.md"]
    (args.out / "gpu_suite.md").write_text("".join(path.read_text() for path in tables))
    left = [name for name in stages(args) if name not in done]
    print(f"Call again for: {', '.join(left)}." if left else "All is done.")


if __name__ == "__main__":
    main()
