"""Seeds, generators, and what draws from torch's global ones."""

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np
import torch

# What a seed is derived for: the numbers of one seed differ.
WEIGHTS_STREAM, EPOCH_STREAM, SCORE_STREAM, GLOBAL_STREAM = range(4)  # of a transformer's seed
TEACHER_STREAM, STUDENT_STREAM = range(2)  # of a classifier's
STEPS_STREAM, STEPS_GLOBAL_STREAM = 3, 4  # of a teacher's or student's

_GLOBAL_GENERATOR = threading.RLock()


def _renew_lock() -> None:
    global _GLOBAL_GENERATOR
    _GLOBAL_GENERATOR = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def derived_seed(seed: int, *path: int) -> int:
    """Seed that depends on `seed` and on what it is for, such as the number of an epoch.

    Zeros at the end of the path make no difference.
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> 1)


def cpu_generator(seed: int, *path: int) -> torch.Generator:
    """Return a generator on the CPU with a derived seed."""
    return torch.Generator().manual_seed(derived_seed(seed, *path))


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
