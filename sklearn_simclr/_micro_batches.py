"""Gradients of batches that memory does not hold: the network sees some samples at a time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sklearn_simclr._device import mixed_precision
from sklearn_simclr._distributed import ALONE, World
from sklearn_simclr._graphs import compiled
from sklearn_simclr._placement import by_kind
from sklearn_simclr._random import generator_states, set_generator_states
from sklearn_simclr._warnings import warn_caller

# What RuntimeErrors say of a lack of memory: torch and oneDNN on CPUs, torch on Apple's GPUs, CUDA,
# cuDNN and cuBLAS. oneDNN and cuDNN say it of other failures too, which happen with two samples as
# well.
_LACKS = (
    "DefaultCPUAllocator",
    "could not create a primitive",
    "MPS backend out of memory",
    "CUDA error: out of memory",
    "unable to find an engine to execute this computation",
    "STATUS_ALLOC_FAILED",
)


class MicroBatches:
    """Computes loss and gradients of batches that may be larger than memory.

    As long as memory holds what a network keeps of a whole batch, that is an ordinary forward and
    backward pass. When it no longer does, the network gets a micro-batch at a time, twice: without
    a graph for the outputs of all, of which the loss and its gradient are computed, and with one
    to take this gradient back to the weights. The loss is that of the whole batch, and so are the
    gradients but for batch normalisation, which takes the statistics of each micro-batch.

    Parameters
    ----------
    network : nn.Module
        Whose parameters get the gradients.
    output_of : callable
        Maps inputs (m, ...) to what the loss is computed of, (m, d), by way of `network`.
    device : torch.device
        Where all of it lies.
    precision : torch.dtype
        In which the network multiplies.
    draws_globally : bool
        Whether the network or the loss may draw from torch's global generators.
    batch_size : int
        For messages: the parameter of that name.
    n_views : int, default=1
        How many rows there are of each sample: first all first views, then all second views.
    size : int, default=None
        Samples in a micro-batch, of all processes together; None: the whole batch. It is halved
        whenever memory runs out, down to 2, and stays so.
    world : World, default=ALONE
        The processes that share a batch. With several, of which only one may run out of memory
        while the others wait for it, nothing is halved.

    References
    ----------
    .. [1] Gao, Zhang, Han & Callan (2021). Scaling Deep Contrastive Learning Batch Size under
       Memory Limited Setup. RepL4NLP. https://arxiv.org/abs/2101.06983
    """

    def __init__(
        self,
        network: nn.Module,
        output_of: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        precision: torch.dtype,
        draws_globally: bool,
        batch_size: int,
        n_views: int = 1,
        size: int | None = None,
        world: World = ALONE,
    ):
        self.network = network
        self.output_of = output_of
        self.device = device
        self.precision = precision
        self.draws_globally = draws_globally
        self.batch_size = batch_size
        self.n_views = n_views
        self.size = size
        self.world = world
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._says_so = False  # if it is given up
        self._buffers = [
            (module, name)
            for module in network.modules()
            for name, _ in module.named_buffers(recurse=False)
        ]

    def compile(self, *, warns: bool) -> None:
        """Use torch.compile from here on; if it fails, go on without, and say so if `warns`."""
        self._says_so = warns
        try:
            self._compiled = compiled(self.output_of)
        except Exception as error:  # torch does not know this Python or this system
            self._warn_uncompiled(f"{type(error).__name__}: {error}")

    def backward(self, x: Tensor, loss_of: Callable[[Tensor], Tensor], n: int) -> Tensor:
        """Set the gradients of the network's parameters; return the loss, without a graph.

        With several processes the gradients are this one's part of them, yet to be added up.

        Parameters
        ----------
        x : Tensor of shape (n_views * k, ...)
            The views of this process's k samples.
        loss_of : callable
            Maps the outputs (n_views * k, d) to the scalar loss of the batch of all processes.
        n : int
            How many samples the batch of all processes has.

        Raises
        ------
        torch.OutOfMemoryError
            If memory does not hold what has to be in it at once.
        """
        size = self.size
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return self._try(x, loss_of, self._n_pieces(n))  # whose memory is known to suffice
        put_back, failure = self._state(), None
        while True:
            n_pieces = self._n_pieces(n)
            try:
                loss = self._try(x, loss_of, n_pieces)
            except Exception as error:
                if is_out_of_memory(error):
                    self._halve(-(-n // n_pieces), error)
                elif self._compiled is None:
                    raise
                else:  # torch.compile makes the backward pass when it gets there
                    self._compiled, failure = None, f"{type(error).__name__}: {error}"
            else:
                break
            # Only here are the frames of the error gone, and with them the memory they held.
            put_back()
            release_memory(self.device)
        if self.size != size:
            self._warn(n)
        if failure is not None:
            self._warn_uncompiled(failure)
        return loss

    def _warn_uncompiled(self, failure: str) -> None:
        if self._says_so:
            warn_caller(
                "torch.compile does not work here, and the network is used as it is. Pass "
                f"compile='auto' to silence this. {failure}"
            )

    def _n_pieces(self, n: int) -> int:
        """How many micro-batches a batch of n samples is cut into, the same in all processes."""
        return 1 if self.size is None else min(-(-n // self.size), n // self.world.size)

    def _try(self, x: Tensor, loss_of: Callable[[Tensor], Tensor], n_pieces: int) -> Tensor:
        self.network.zero_grad()
        if n_pieces == 1:
            loss = loss_of(self._output(x))
            (loss / self.world.size).backward()
            return loss.detach()
        pieces = self._cut(x, n_pieces)
        put_back = self._state()
        with torch.no_grad():
            blocks = [self._output(piece.flatten(0, 1)) for piece in pieces]
        outputs = self._joined(blocks).requires_grad_()
        loss = loss_of(outputs)
        (gradient,) = torch.autograd.grad(loss / self.world.size, outputs)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=self.draws_globally):
            put_back()  # so that all is computed and drawn as before, and buffers move once
            for piece, of_piece in zip(pieces, self._cut(gradient, n_pieces), strict=True):
                self._output(piece.flatten(0, 1)).backward(of_piece.flatten(0, 1))
        return loss.detach()

    def _output(self, x: Tensor) -> Tensor:
        # Autocast keeps the weights that it has cast, with a graph or without: once for each pass.
        with mixed_precision(self.precision, self.device):
            return (self._compiled or self.output_of)(x)

    def _cut(self, rows: Tensor, n_pieces: int) -> tuple[Tensor, ...]:
        """Cut (n_views * k, ...) into (n_views, k_i, ...), all views of some samples each."""
        return rows.unflatten(0, (self.n_views, -1)).tensor_split(n_pieces, dim=1)

    def _joined(self, blocks: list[Tensor]) -> Tensor:
        """Put (n_views * k_i, d) together to (n_views * k, d)."""
        pieces = [block.unflatten(0, (self.n_views, -1)) for block in blocks]
        return torch.cat(pieces, dim=1).flatten(0, 1)

    def _state(self) -> Callable[[], None]:
        """Return a function that puts back, as they are now, what a forward pass moves.

        These are buffers, such as running statistics, and generators.
        """
        buffers = [getattr(module, name) for module, name in self._buffers]
        groups = by_kind(buffers)
        # One copy of many small tensors, since this is done in every step.
        copies = [torch.cat([buffer.reshape(-1) for buffer in group]) for group in groups]
        generators = generator_states(self.device) if self.draws_globally else None

        @torch.no_grad()
        def put_back() -> None:
            for group, copy in zip(groups, copies, strict=True):
                parts = copy.split([buffer.numel() for buffer in group])
                for buffer, part in zip(group, parts, strict=True):
                    buffer.copy_(part.view_as(buffer))
            for (module, name), buffer in zip(self._buffers, buffers, strict=True):
                setattr(module, name, buffer)  # which the module may have replaced
            if generators is not None:
                set_generator_states(generators, self.device)

        return put_back

    def _halve(self, size: int, error: RuntimeError) -> None:
        """Make micro-batches half of those of `size`, which were too large."""
        several = self.world.size > 1
        if several or size <= 2:
            what = (
                f"its share of batches of {self.batch_size} samples, and {self.world.size} "
                "processes do not cut their batches smaller"
                if several
                else f"even {size} samples at a time, or the loss of a batch of {self.batch_size}"
            )
            raise torch.OutOfMemoryError(
                f"The memory of {self.device} does not hold {what}. Lower "
                f"batch_size={self.batch_size}, image_size or the width of the encoder, or make "
                f"room on the device. {type(error).__name__}: {error}"
            ) from error
        self.size = -(-size // 2)

    def _warn(self, n: int) -> None:
        norms = (
            " Batch normalisation uses the statistics of each micro-batch."
            if self.network.training
            else ""
        )
        warn_caller(
            f"The memory of {self.device} does not hold what the network keeps of {n} samples "
            f"(batch_size={self.batch_size}). From now on it gets {self.size} at a time; the loss "
            f"is still that of {n}.{norms} Lower batch_size to silence this."
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the memory of a device does not suffice."""
    lacks = isinstance(error, RuntimeError) and any(lack in str(error) for lack in _LACKS)
    return lacks or isinstance(error, torch.OutOfMemoryError)


def release_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more, but may be kept for later."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
