"""Batch normalisation of few channels on a CPU, faster than torch's own."""

import contextlib
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

# How many channels torch computes at once, with a slow remainder, and from how many on that matters
# little; by measurement.
_LANES, _MANY = 16, 32
_DTYPES = (torch.float32, torch.bfloat16)


@contextlib.contextmanager
def quick_batch_norm(network: nn.Module) -> Iterator[None]:
    """Let normalisations of few channels compute several neighbouring pixels as one of many.

    On maps with the channels last, torch computes few channels one value at a time, and its threads
    write to the same lines of the cache: eight channels take five times as long as they have to,
    a fifth of the step of a ResNet of an eighth of the width. The network's modules, parameters and
    buffers stay what they are, and so does what they compute, but for rounding.
    """
    norms = [module for module in network.modules() if _is_slow(module)]
    try:
        for norm in norms:
            norm.forward = partial(_normalise, norm)
        yield
    finally:
        for norm in norms:
            del norm.forward


def _is_slow(module: nn.Module) -> bool:
    return (
        type(module) is nn.BatchNorm2d
        and "forward" not in vars(module)  # which another context has put there
        and module.num_features < _MANY
        and module.num_features % _LANES > 0
        and module.weight is not None
        and module.bias is not None
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
    )


def _normalise(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Do what the layer does."""
    n_pixels = x.numel() // norm.num_features  # of the whole batch
    n_folded = math.gcd(n_pixels, _LANES)
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    if not (norm.training and is_last and x.dtype in _DTYPES and n_folded > 1):
        return type(norm).forward(norm, x)
    y, mean, var = _FoldedBatchNorm.apply(x, norm.weight, norm.bias, norm.eps, n_folded)
    if norm.running_mean is not None:
        update_statistics(norm, mean, var, n_pixels)
    return y


class _FoldedBatchNorm(torch.autograd.Function):
    """Batch normalisation of x (n, c, h, w), channels last; also returns mean and variance.

    What it returns is no view: where a layer such as ReLU writes to a view, torch copies gradients.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, n_folded: int):
        wide = _folded(x, n_folded)
        zeros = weight.new_zeros(wide.shape[1])
        means, variances = torch.batch_norm_update_stats(wide, zeros, zeros.clone(), 0)
        means, variances = means.view(n_folded, -1), variances.view(n_folded, -1)
        mean = means.mean(0)  # (c,)
        var = variances.mean(0) + means.var(0, correction=0)
        factor = weight * (var + eps).rsqrt()
        ctx.eps, ctx.n_folded = eps, n_folded
        ctx.save_for_backward(x, weight, mean, var)
        ctx.mark_non_differentiable(mean, var)
        return _affine(x, factor, bias - mean * factor, n_folded), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, *_):
        x, weight, mean, var = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        n_pixels, n_folded = x.numel() // len(mean), ctx.n_folded
        _, *sums = torch.ops.aten.native_batch_norm_backward(
            _folded(dy, n_folded),
            _folded(x, n_folded),
            *(value.repeat(n_folded) for value in (weight, mean, var)),
            None,
            None,
            False,
            ctx.eps,
            (False, True, True),
        )
        dweight, dbias = (value.view(n_folded, -1).sum(0) for value in sums)  # (c,)
        scale = (var + ctx.eps).rsqrt()
        factor = weight * scale
        slope = -factor * scale * dweight / n_pixels
        dx = _affine(dy, factor, -factor * dbias / n_pixels, n_folded)
        dx += _affine(x, slope, -slope * mean, n_folded)
        return dx, dweight, dbias, None, None


def _folded(x: Tensor, n_folded: int) -> Tensor:
    """View maps (n, c, h, w), channels last, as maps (1, f * c, r, 1) of f pixels each."""
    rows = x.permute(0, 2, 3, 1).view(1, -1, 1, n_folded * x.shape[1])
    return rows.permute(0, 3, 1, 2)


def _affine(x: Tensor, factor: Tensor, shift: Tensor, n_folded: int) -> Tensor:
    """Return x * factor + shift for maps (n, c, h, w), factor and shift (c,) in float32.

    It is a batch normalisation in evaluation mode, which reads bfloat16 and computes in float32.
    """
    y, unused = torch.empty_like(x), factor.new_empty(0)
    mean, var = torch.zeros_like(factor), torch.ones_like(factor)
    torch.native_batch_norm(
        _folded(x, n_folded),
        *(value.repeat(n_folded) for value in (factor, shift, mean, var)),
        training=False,
        momentum=0,
        eps=1e-30,
        out=(_folded(y, n_folded), unused, unused.clone()),
    )
    return y


def update_statistics(norm: _BatchNorm, mean: Tensor, var: Tensor, n_values) -> None:
    """Move the running statistics towards those of a batch of `n_values` values a channel."""
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    unbiased = var * (n_values / (n_values - 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
