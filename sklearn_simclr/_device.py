"""Device and precision: found out when needed, never stored."""

import contextlib
import os
from collections.abc import Iterator

import torch

from sklearn_simclr._allocator import reused_memory
from sklearn_simclr._workers import fair_threads, in_forked_process, warn_of_shared_gpu


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
    """Autocast to this dtype; float32 switches autocast off."""
    if precision == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=precision)


@contextlib.contextmanager
def plain_torch(*, reuses_memory: bool = False) -> Iterator[None]:
    """Shut out what the caller may have switched on: no_grad, autocast, a default device.

    Parameters
    ----------
    reuses_memory : bool, default=False
        Whether to keep what is freed for what is allocated next, as training does.
    """
    with contextlib.ExitStack() as stack:
        if reuses_memory:
            stack.enter_context(reused_memory())
        stack.enter_context(fair_threads())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Within a surrounding autocast, torch would keep using the first cast copies of weights.
        stack.enter_context(torch.autocast("cpu", enabled=False, cache_enabled=False))
        for kind in ("cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
