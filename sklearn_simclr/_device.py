"""Device, precision and generators: found out when needed, never stored."""

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

from sklearn_simclr._allocator import reused_memory
from sklearn_simclr._workers import fair_threads, in_forked_process, warn_of_shared_gpu

_GLOBAL_GENERATOR = threading.RLock()


def _renew_lock() -> None:
    global _GLOBAL_GENERATOR
    _GLOBAL_GENERATOR = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn the parameter `device` into a device that this machine has.

    "auto" gives each of the processes that torchrun has started on a machine a GPU of its own.
    """
    name = _best_device() if device == "auto" else device
    try:
        resolved = torch.device(name)
        if name != "cpu":
            torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        advice = "Pass device='auto' or device='cpu'."
        if in_forked_process():
            advice = "A forked process cannot: use joblib's backend 'loky', or pass device='cpu'."
        raise ValueError(
            f"device={device!r} cannot be used on this machine: {_first_line(error)}. {advice}"
        ) from error
    warn_of_shared_gpu(resolved)
    return resolved


def _best_device() -> str:
    if torch.cuda.is_available():
        return _own_gpu()
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _own_gpu() -> str:
    n_gpus, local_rank = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", 0))
    several = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    if not several or n_gpus == 1:
        return "cuda"
    if local_rank >= n_gpus:
        raise ValueError(
            f"torchrun has started process {local_rank + 1} on a machine with {n_gpus} GPUs: pass "
            f"--nproc-per-node {n_gpus} to torchrun, or device='cpu' to the estimator."
        )
    return f"cuda:{local_rank}"


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn the parameter `precision` into the dtype in which training multiplies."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively, so that it is worth using."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Not yet public in every supported torch release; without them, float32 is safe.
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return False


def describe(device: torch.device, precision: torch.dtype) -> str:
    """Name a device, a GPU by its model too, and the dtype in which training multiplies.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._device import describe
    >>> describe(torch.device("cpu"), torch.bfloat16)
    'cpu in bfloat16'
    """
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{model} in {str(precision).removeprefix('torch.')}"


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was asked to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def mixed_precision(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """Multiply in this dtype, which float32 leaves as it is."""
    if precision == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=precision)


def derived_seed(seed: int, *path: int) -> int:
    """Seed that depends on `seed` and on what it is for, such as the number of an epoch."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> 1)


def cpu_generator(seed: int, *path: int) -> torch.Generator:
    """Return a generator on the CPU with a derived seed."""
    return torch.Generator().manual_seed(derived_seed(seed, *path))


@contextlib.contextmanager
def plain_torch(*, reuses_memory: bool = False) -> Iterator[None]:
    """Shut out what the caller may have switched on: no_grad, autocast, a default device.

    Parameters
    ----------
    reuses_memory : bool, default=False
        Whether to keep what is freed for what is allocated next, as trainings do.
    """
    with contextlib.ExitStack() as stack:
        if reuses_memory:
            stack.enter_context(reused_memory())
        stack.enter_context(fair_threads())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Within another context autocast would keep the weights that it has cast first.
        stack.enter_context(torch.autocast("cpu", enabled=False, cache_enabled=False))
        if torch.is_autocast_enabled("cuda"):
            stack.enter_context(torch.autocast("cuda", enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def seeded_global_generator(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a while and put them back.

    For code that can draw from nowhere else: the initialisation of layers, dropout, the user's own
    callables. It runs in float32 by default. Threads take turns, so that each sees its own seed.
    """
    with _GLOBAL_GENERATOR, _float32_by_default():
        before = generator_states(device)
        try:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            elif device.type == "mps":
                torch.mps.manual_seed(seed)
            yield
        finally:
            set_generator_states(before, device)


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """Return the states of torch's global generators, for the CPU and for this device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_generator_states(states: list[torch.Tensor], device: torch.device) -> None:
    """Put torch's global generators back to what `generator_states` has returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])


def global_draws(
    needed: bool, seed: int, device: torch.device
) -> contextlib.AbstractContextManager:
    """Seed torch's global generators for a while if code that may draw from them is to run."""
    return seeded_global_generator(seed, device) if needed else contextlib.nullcontext()


@contextlib.contextmanager
def _float32_by_default() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
