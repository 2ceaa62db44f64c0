"""Fewer and larger kernels: CUDA graphs, which replay what was recorded, and torch.compile."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import FunctionType
from typing import TypeVar

import torch
from torch import Tensor

from sklearn_simclr._warnings import warn_caller

Item = TypeVar("Item")
_N_PLAIN = 3  # calls before the recording: libraries load, and optimizers allocate what they keep
_FEWEST = 20  # calls from which on a recording, some tenths of a second, is worth it
_RECORDING = threading.Lock()


class Replayed:
    """A function of tensors on a GPU, which after some calls is recorded and then only replayed.

    Each kernel takes Python longer to start than a GPU takes to run a small one, and a step of
    training starts a thousand. A graph of them starts in one go. Whatever else the function does,
    such as drawing numbers on the CPU, is not repeated. It has to work on its arguments and on
    tensors that stay where they are, and not to wait for the GPU; where it cannot be recorded, it
    goes on as a function.

    Parameters
    ----------
    function : callable
        Maps tensors, always of the same shapes, to a tensor.
    n_calls : int
        How many calls there will be. Of a few none is recorded.
    """

    def __init__(self, function: Callable[..., Tensor], n_calls: int):
        self._function = function
        self._n_plain = _N_PLAIN if n_calls >= _FEWEST else n_calls
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what the function returns; once recorded, in memory that the next call reuses."""
        if self._graph is None and (self._n_plain > 0 or not self._record(inputs)):
            self._n_plain -= 1
            return self._function(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output

    def _record(self, inputs: tuple[Tensor, ...]) -> bool:
        """Record the function without running it; return whether that is possible."""
        own = [values.clone() for values in inputs]
        device = own[0].device
        try:
            graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
            is_default = current == torch.cuda.default_stream(device)  # which cannot be recorded
            stream = _stream(device, "recording") if is_default else current
            # Other threads may do as they like, such as the one that reads ahead.
            mode = {"stream": stream, "capture_error_mode": "thread_local"}
            with (
                _RECORDING,
                torch.cuda.device(device),
                torch.cuda.stream(current),  # to which a recording that fails may not come back
                torch.cuda.graph(graph, **mode),
            ):
                output = self._function(*own)
        except RuntimeError as error:
            self._n_plain = torch.inf
            if not isinstance(error, torch.OutOfMemoryError):
                warn_caller(
                    f"A step could not be recorded as a CUDA graph and is taken as it is, which "
                    f"may be slower. {type(error).__name__}: {error}"
                )
            return False
        self._graph, self._inputs, self._output = graph, own, output
        return True


@cache
def _stream(device: torch.device, *purpose: str | int) -> torch.cuda.Stream:
    """Make a stream, once: libraries keep memory for each that they have worked on."""
    return torch.cuda.Stream(device)


@contextlib.contextmanager
def fastest_convolutions(needed: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms on each shape and keep the fastest, instead of guessing.

    The choice may differ between runs, so it is left alone where determinism was asked for.
    """
    cudnn = torch.backends.cudnn
    is_exact = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    if not needed or cudnn.benchmark or is_exact:
        yield
        return
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = False


def beside(
    make: Callable[[Item], Tensor], items: Iterable[Item], device: torch.device
) -> Iterator[Tensor]:
    """Make a tensor of each item on a side stream, one ahead of its use.

    Each is made while the one before is in use. Items and what comes of them are in memory of the
    current stream; they are kept until it has waited for the other one.
    """
    current = torch.cuda.current_stream(device)
    # Of this thread alone: a recording on it would take in what others do there.
    own = _stream(current.device, "beside", threading.get_ident())

    def begin(item: Item) -> tuple[Tensor, Item, torch.cuda.Event]:
        own.wait_stream(current)
        with torch.cuda.stream(own):
            made = make(item)
        result = torch.empty_like(made)  # for the next one may overwrite the other
        own.wait_stream(current)  # where another thread may have used this memory until now
        with torch.cuda.stream(own):
            return result.copy_(made), item, own.record_event()

    def end(result: Tensor, _, event: torch.cuda.Event) -> Tensor:
        current.wait_event(event)
        return result

    begun = None
    try:
        for item in items:
            next_begun = begin(item)
            if begun is not None:
                yield end(*begun)
            begun = next_begun
        if begun is not None:
            yield end(*begun)
    finally:
        current.wait_stream(own)


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what torch.compile makes of a function, which finds out when it is called first.

    torch compiles one piece of code eight times, for as many networks, and no more: each function
    gets a copy of its code.
    """
    code, names = function.__code__.replace(), function.__globals__
    own = FunctionType(code, names, closure=function.__closure__)
    return torch.compile(own, dynamic=False)
