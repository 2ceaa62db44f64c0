"""The network that is trained: encoder and projection head behind the input normalisation."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sklearn_simclr._random import seeded_global_generator
from sklearn_simclr.encoders import (
    ConvNetEncoder,
    MLPEncoder,
    ResNetEncoder,
    TorchvisionEncoder,
    build_encoder,
    feature_dim,
)
from sklearn_simclr.projection import first_layers, projection_head

_CONVOLUTIONAL = ResNetEncoder, ConvNetEncoder, TorchvisionEncoder
_DRAWS = (Tensor.normal_, Tensor.uniform_)


class SimCLRNetwork(nn.Module):
    """Encoder and projection head behind the input normalisation learned in fit."""

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        n_features: int,
        mean: np.ndarray,
        scale: np.ndarray,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.n_features = n_features
        self.memory_format = memory_format
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def set_statistics(self, mean: np.ndarray, scale: np.ndarray) -> None:
        """Replace mean and scale of the input normalisation."""
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features h (n, d) of images in [0, 1] (n, c, h, w), or of vectors."""
        return self.encoder(laid_out(standardised(x, self.mean, self.scale), self.memory_format))

    def represent(self, x: Tensor, output_layer: int) -> Tensor:
        """Return h behind the first `output_layer` layers of the head: h itself, ..., z."""
        return first_layers(self.head, output_layer)(self(x))


def standardised(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Take mean and scale out of the channels of images (n, c, h, w), or of vectors (n, d)."""
    shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
    return (x - mean.view(shape)) / scale.view(shape)


def laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Bring images (n, c, h, w), or vectors, to an order in memory.

    The strides of a single channel say nothing of the order, but convolutions go by them: from
    those of (n, h, w, 1) they return channels last, which an encoder may not count on.
    """
    if x.ndim == 4 and x.shape[1] == 1 and layout == torch.contiguous_format:
        x = x.squeeze(1).unsqueeze(1)
    return x.contiguous(memory_format=layout)


def names_to_stay_finite(network: nn.Module) -> list[str]:
    """Names in the state dict of what must stay finite: weights that are trained, and all that is.

    Masks of infinities are not among them.
    """
    values = {
        name: value
        for name, value in network.state_dict().items()
        if value.is_floating_point() or value.is_complex()
    }
    are_finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    trained = {name for name, param in network.named_parameters() if param.requires_grad}
    pairs = zip(values, are_finite, strict=True)
    return [name for name, is_finite in pairs if is_finite or name in trained]


def largest_weight(network: nn.Module, names: list[str]) -> Tensor:
    """Largest magnitude among what the state dict has under some names, left on the device."""
    state = network.state_dict()
    sizes = [state[name].abs().max().float() for name in names if state[name].numel()]
    return torch.stack(sizes).max()


def build_network(
    encoder,
    head: tuple[int, int],
    input_shape: tuple[int, ...],
    mean: np.ndarray,
    scale: np.ndarray,
    *,
    n_features: int | None,
    seed: int,
    device: torch.device,
    draws: bool = True,
) -> SimCLRNetwork:
    """Make the network with fresh weights, unless the encoder brings its own.

    Parameters
    ----------
    encoder
        What `resolve_encoder` returned.
    head : tuple of (int, int)
        Width and number of layers of the projection head.
    input_shape : tuple of int
        Shape of one sample as the encoder sees it: (c, h, w) or (d,).
    mean, scale : ndarray of shape (c,) or (d,)
        The input normalisation.
    n_features : int or None
        Width of h; None: found by trial.
    draws : bool, default=True
        Whether the weights of encoder objects are drawn. Without they are whatever the memory
        holds, for a caller that loads all of them.

    Raises
    ------
    ValueError, TypeError
        If the encoder cannot be built or does not map this input to (n, d).
    """
    known = type(encoder) in (MLPEncoder, *_CONVOLUTIONAL)
    drawing = _NoDraws() if known and not draws else contextlib.nullcontext()
    with seeded_global_generator(seed, torch.device("cpu")), drawing:
        network = build_encoder(encoder, input_shape)
        if n_features is None:
            n_features = feature_dim(network, input_shape, encoder)
        head_network = projection_head(n_features, *head)
    layout = _memory_format(encoder, network, device)
    if layout == torch.channels_last:
        network = network.to(memory_format=layout)
    return SimCLRNetwork(network, head_network, n_features, mean, scale, layout).to(device)


class _NoDraws(TorchFunctionMode):
    """Leaves out the initialisation of weights, in this thread."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _memory_format(encoder, network: nn.Module, device: torch.device) -> torch.memory_format:
    """Choose the order of pixels and channels in memory: channels last wherever that is safe.

    It is the faster one for convolutions, but a module of the user's may count on torch's default,
    as every ``x.view(len(x), -1)`` does. On CPUs the gradient of torch's grouped convolutions in
    bfloat16 has been seen to read memory that was never written, on maps of one pixel.
    """
    known = type(encoder) in _CONVOLUTIONAL
    grouped = any(getattr(module, "groups", 1) > 1 for module in network.modules())
    if known and not (grouped and device.type == "cpu"):
        return torch.channels_last
    return torch.contiguous_format


@contextlib.contextmanager
def dropping_idle_strides(network: nn.Module) -> Iterator[None]:
    """Take the stride from convolutions that are given maps of one column, in a pass made within.

    It makes no difference to what they return, but in bfloat16 on CPUs oneDNN leaves part of the
    gradient of such weights unwritten, so that it is whatever the memory held before.
    """
    widths: dict[nn.Conv2d, set[int]] = {}

    def record(module, args, kwargs):
        x = next(iter((*args, *kwargs.values())))
        widths.setdefault(module, set()).add(x.shape[-1])

    hooks = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.stride[1] > 1
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for module, seen in widths.items():
        reach = module.dilation[1] * (module.kernel_size[1] - 1)
        if seen == {1} and 2 * module.padding[1] == reach:  # one column whatever the stride
            module.stride = (module.stride[0], 1)
