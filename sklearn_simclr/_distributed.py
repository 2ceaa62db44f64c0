"""Several processes that train as one, over torch.distributed; for one process, nothing of it."""

import atexit
import contextlib
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from sklearn_simclr._batch_norm import update_statistics
from sklearn_simclr._placement import by_kind
from sklearn_simclr._workers import is_worker

_TIMEOUT = timedelta(minutes=30)  # how long the others may take to reach the same point
_TURN = threading.RLock()  # of the threads of this process
_group = None  # what the processes talk in; made at the first need, and anew after an error


@dataclass(frozen=True)
class World:
    """The processes of a run, of which this is one.

    Every method but `share` has to be called by all of them, in the same order. With one process
    they return at once.

    Raises
    ------
    RuntimeError
        By all methods but `share`: if another process has ended, or has given up after an error.

    Examples
    --------
    >>> from sklearn_simclr._distributed import World
    >>> [World(rank, 3).share(8) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of n rows are this process's; the shares differ by one row at most."""
        least, rest = divmod(n, self.size)
        start = self.rank * least + min(self.rank, rest)
        return slice(start, start + least + (self.rank < rest))

    def all_gather_with_gradient(self, x: Tensor, n: int) -> Tensor:
        """Put the shares (k, ...) of all processes together: (n, ...), the same on each.

        The gradient of a share adds up what all processes do with it.
        """
        return x if self.size == 1 else _Gather.apply(x, self, n)

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of each parameter over the processes, in one message.

        A parameter that has a gradient in no process is left without.
        """
        if self.size == 1:
            return
        for params in by_kind(param for param in parameters if param.requires_grad):
            has_gradient = [float(param.grad is not None) for param in params]
            flat = [_gradient(param).reshape(-1) for param in params]
            message = torch.cat([*flat, flat[0].new_tensor(has_gradient)])
            with self._collective() as group:
                dist.all_reduce(message, group=group)
            *totals, found = message.split([*map(torch.numel, params), len(params)])
            for param, total, anywhere in zip(params, totals, found, strict=True):
                if param.grad is None:
                    if not anywhere:
                        continue
                    param.grad = torch.empty_like(param)
                param.grad.copy_(total.view_as(param))

    def all_reduce_mean(self, x: Tensor) -> Tensor:
        """Return the mean of x over the processes; not finite if it is not finite on one."""
        if self.size == 1:
            return x
        total = x.clone()
        with self._collective() as group:
            dist.all_reduce(total, group=group)
        return total / self.size

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        if self.size == 1:
            return
        for like in by_kind(tensors):
            message = torch.cat([tensor.detach().reshape(-1) for tensor in like])
            with self._collective() as group:
                dist.broadcast(message, src=0, group=group)
            parts = message.split([tensor.numel() for tensor in like])
            with torch.no_grad():
                for tensor, part in zip(like, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def broadcast_result(self, function: Callable[[], object]):
        """Call a function on the first process only, and return or raise what it does on all.

        It travels as a pickle.
        """
        if self.size == 1:
            return function()
        message: list = [None]
        own_error = None
        if self.is_first:
            try:
                message = [pickle.dumps((function(), None))]
            except Exception as error:
                own_error = error
                message = [_pickled_error(error)]
        with self._collective() as group:
            dist.broadcast_object_list(message, src=0, group=group)
        if own_error is not None:
            raise own_error
        value, error = pickle.loads(message[0])
        if error is not None:
            raise error
        return value

    def all_gather_object(self, value) -> list:
        """Return the values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        with self._collective() as group:
            dist.all_gather_object(values, value, group=group)
        return values

    def all_gather(self, x: Tensor, n: int) -> Tensor:
        """`all_gather_with_gradient` without the gradient."""
        if self.size == 1:
            return x
        longest = -(-n // self.size)
        padded = x.detach().contiguous()
        if len(x) < longest:
            padded = torch.cat([padded, x.new_zeros(longest - len(x), *x.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self._collective() as group:
            dist.all_gather(parts, padded, group=group)
        shares = [World(rank, self.size).share(n) for rank in range(self.size)]
        return torch.cat([p[: s.stop - s.start] for p, s in zip(parts, shares, strict=True)])

    @contextlib.contextmanager
    def _collective(self) -> Iterator[dist.ProcessGroup]:
        """Give the group to talk in, and say what it means if that fails."""
        try:
            yield _joined_group()
        except RuntimeError as error:
            raise RuntimeError(
                f"Process {self.rank} of {self.size} has lost another process of this run, which "
                "has ended, has given up after an error, or cannot be reached: the output of the "
                "others tells why. Fix that and start the run again; with checkpoint_dir it goes "
                "on from its last checkpoint."
            ) from error


ALONE = World()


@contextlib.contextmanager
def joined(method: str) -> Iterator[World]:
    """Give the processes that do together what is done within, a method of an estimator's.

    They are those of torch.distributed if the caller has initialised it, or else those that
    torchrun has started; a worker of joblib's works alone. Whatever is raised within makes this
    process leave, so that the others do not wait for it: they get an error.

    Raises
    ------
    RuntimeError
        If another thread of this process is inside already: their messages would get mixed up.
    ValueError
        If another process has called another method.
    """
    world = _world()
    if world.size == 1:
        yield world
        return
    if not _TURN.acquire(blocking=False):
        raise RuntimeError(
            f"This is one of {world.size} processes that train as one, and another of its threads "
            "is at it. Fit one model after the other: n_jobs=None, or n_jobs=1."
        )
    try:
        methods = world.all_gather_object(method)  # which makes connections that can be closed
        for rank, theirs in enumerate(methods):
            if theirs != methods[0]:
                raise disagreement(rank, f"the method: {methods[0]} and {theirs}")
        yield world
    except BaseException:
        _leave()
        raise
    finally:
        _TURN.release()


def disagreement(rank: int, what: str) -> ValueError:
    """Return the error of all processes when one of them does something else than the first."""
    return ValueError(
        f"Processes 0 and {rank} of this run differ in {what}. Every process has to make the same "
        "calls, with the same parameters and the same X."
    )


def _world() -> World:
    if not dist.is_available() or is_worker():
        return World()
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    # A child of such a process is not one of the run's processes.
    if dist.is_torchelastic_launched() and multiprocessing.parent_process() is None:
        return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return World()


def _joined_group() -> dist.ProcessGroup:
    """Return the group of all processes, in which only this package talks."""
    global _group
    if not dist.is_initialized():
        dist.init_process_group(_backend(), timeout=_TIMEOUT)
        atexit.register(_end)
    if _group is None or not _is_alive(_group):
        # NCCL alone cannot send what lies on the CPU; any other backend is the caller's choice.
        backend = _backend() if "nccl" in dist.get_backend() else None
        _group = dist.new_group(backend=backend, timeout=_TIMEOUT)
    return _group


def _backend() -> str:
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    return "cpu:gloo,cuda:nccl" if has_nccl else "gloo"


def _is_alive(group: dist.ProcessGroup) -> bool:
    """Whether torch.distributed still is what it was when the group was made."""
    try:
        return dist.get_rank(group) >= 0
    except ValueError:
        return False


def _leave() -> None:
    """Close the connections to the other processes."""
    global _group
    group, _group = _group, None
    if group is not None and dist.is_initialized() and _is_alive(group):
        group.abort()  # NCCL would wait for the others, which may wait for this process
        dist.destroy_process_group(group)


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _pickled_error(error: Exception) -> bytes:
    try:
        return pickle.dumps((None, error))
    except Exception:  # of a class that does not pickle
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _gradient(param: nn.Parameter) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad


class _Gather(torch.autograd.Function):
    """The rows of all processes; the gradient adds up those that the processes have for them."""

    @staticmethod
    def forward(ctx, x: Tensor, world: World, n: int) -> Tensor:
        ctx.world = world
        return world.all_gather(x, n)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        total = gradient.clone(memory_format=torch.contiguous_format)
        with ctx.world._collective() as group:
            dist.all_reduce(total, group=group)
        return total[ctx.world.share(len(total))], None, None


@contextlib.contextmanager
def global_batch_norm(network: nn.Module, world: World) -> Iterator[None]:
    """Let batch normalisation use the statistics of the batch of all processes together.

    The network's modules, parameters and buffers stay what they are.

    Raises
    ------
    ValueError
        If a layer is a batch normalisation with a `forward` of its own.
    """
    if world.size == 1:
        yield
        return
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        is_known = type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        if not is_known or "forward" in vars(norm):
            raise ValueError(
                f"The encoder's layer {type(norm).__name__} is a batch normalisation with a "
                "forward of its own, for which several processes cannot share their statistics. "
                "Use torch's batch normalisation, or train in one process."
            )
    # On GPUs torch has fast kernels for it, which it does not have elsewhere.
    on_gpu = next(network.parameters()).device.type == "cuda"
    try:
        for norm in norms:
            norm.forward = _synchronised(norm) if on_gpu else partial(_normalise, norm, world)
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)


def _synchronised(norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
    """Make a forward of torch's own layer for it, with the parameters and buffers of this one."""
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(norm, _joined_group())

    def forward(x: Tensor) -> Tensor:
        twin.training = norm.training
        return twin(x)

    return forward


def _normalise(norm: _BatchNorm, world: World, x: Tensor) -> Tensor:
    """Do what the layer does, for the batch of all processes."""
    if not norm.training and norm.running_mean is not None:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    y, mean, var, count = _GlobalBatchNorm.apply(x, norm.weight, norm.bias, norm.eps, world)
    if norm.training and norm.running_mean is not None:
        update_statistics(norm, mean, var, count)
    return y


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch normalisation of x (k, c, ...); also returns mean, variance and number of values."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, world):
        values = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        own_var, own_mean = torch.var_mean(values, axes, correction=0)  # (c,)
        own_count = torch.full_like(own_mean, x.numel() / x.shape[1])
        # (processes, c) each
        means, variances, counts = world.all_gather(
            torch.stack([own_mean, own_var, own_count])[None], world.size
        ).unbind(1)
        count = counts[:, 0].sum()
        shares = counts / count
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean) ** 2)).sum(0)
        scale = (var + eps).rsqrt()
        ctx.world, ctx.axes, ctx.has_bias = world, axes, bias is not None
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, var, count)
        factor = scale if weight is None else scale * weight
        shift = -mean * factor if bias is None else bias - mean * factor
        y = torch.addcmul(_along(shift, x), values, _along(factor, x))
        return y.to(x.dtype), mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, *_):
        x, weight, mean, scale, count = ctx.saved_tensors
        dy = dy.to(mean.dtype)
        normalised = (x.to(mean.dtype) - _along(mean, x)) * _along(scale, x)
        sums = torch.stack([dy.sum(ctx.axes), (dy * normalised).sum(ctx.axes)])  # (2, c)
        dbias, dweight = sums.clone()  # those of all processes are added up with the others
        with ctx.world._collective() as group:
            dist.all_reduce(sums, group=group)
        means = sums / count
        dx = dy - _along(means[0], x) - normalised * _along(means[1], x)
        dx = dx * _along(scale if weight is None else scale * weight, x)
        return (
            dx.to(x.dtype),
            None if weight is None else dweight.to(weight.dtype),
            dbias if ctx.has_bias else None,
            None,
            None,
        )


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Shape values (c,) so that they meet the channels of x (k, c, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
