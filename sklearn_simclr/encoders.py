"""The encoder f(.): networks that turn images or vectors into features h.

An encoder object holds options only; ``build(input_shape)`` makes the network, for images of
shape (c, h, w) or vectors of shape (d,).
"""

import copy
from numbers import Integral, Real

import torch
import torchvision
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

_STAGES = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
_LARGEST_SMALL_SIDE = 64


class ResNetEncoder(BaseEstimator):
    """ResNet without its classifier; h is the average over the last feature map.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}, default=18
        Number of layers.
    width : float, default=1.0
        Multiplies the channels of every layer, > 0. h has ``512 * width`` features at depth 18
        and 34, ``2048 * width`` beyond.
    stem : {"auto", "small", "large"}, default="auto"
        The first layers. "large" is the original, a 7x7 convolution of stride 2 and a max-pool,
        which shrinks the image fourfold. "small" is a 3x3 convolution of stride 1 and no pooling,
        as the paper uses for CIFAR-10 (appendix B.9). "auto" is small up to 64 pixels a side.

    References
    ----------
    .. [1] He, Zhang, Ren & Sun (2016). Deep Residual Learning for Image Recognition. CVPR.
       https://arxiv.org/abs/1512.03385

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import ResNetEncoder
    >>> network = ResNetEncoder(width=0.25).build((3, 32, 32))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 128])
    """

    _parameter_constraints: dict = {
        "depth": [Options(Integral, set(_STAGES))],
        "width": [Interval(Real, 0, None, closed="neither")],
        "stem": [StrOptions({"auto", "small", "large"})],
    }

    def __init__(self, depth=18, *, width=1.0, stem="auto"):
        self.depth = depth
        self.width = width
        self.stem = stem

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Make the network for images of shape (c, h, w), with fresh weights.

        Raises
        ------
        ValueError
            If a parameter is out of range or the input is not images.
        """
        self._validate_params()
        channels, height, width = _image_shape(self, input_shape)
        stem = self.stem
        if stem == "auto":
            stem = "small" if max(height, width) <= _LARGEST_SMALL_SIDE else "large"
        return _resnet(*_STAGES[self.depth], channels, self.width, stem)


def _resnet(
    block, n_blocks: tuple[int, ...], in_channels: int, width: float, stem: str
) -> nn.Sequential:
    """Put torchvision's blocks together under its names, with any stem and width."""
    planes = [max(1, round(64 * width * 2**stage)) for stage in range(4)]
    kernel, stride = (3, 1) if stem == "small" else (7, 2)
    network = nn.Sequential()
    network.conv1 = nn.Conv2d(in_channels, planes[0], kernel, stride, kernel // 2, bias=False)
    network.bn1 = nn.BatchNorm2d(planes[0])
    network.relu = nn.ReLU(inplace=True)
    if stem == "large":
        network.maxpool = nn.MaxPool2d(3, 2, 1)
    last = planes[0]
    for stage, (n_planes, n) in enumerate(zip(planes, n_blocks, strict=True)):
        blocks = []
        for i in range(n):
            blocks.append(_block(block, last, n_planes, 2 if stage and i == 0 else 1))
            last = n_planes * block.expansion
        network.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.flatten = nn.Flatten()
    _init_convolutions(network)
    return network


def _block(block, in_planes: int, planes: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or in_planes != planes * block.expansion:
        shortcut = nn.Sequential(
            nn.Conv2d(in_planes, planes * block.expansion, 1, stride, bias=False),
            nn.BatchNorm2d(planes * block.expansion),
        )
    return block(in_planes, planes, stride, shortcut)


class ConvNetEncoder(BaseEstimator):
    """Small convolutional network for images of few pixels, such as digits and characters.

    Layers of 3x3 convolution, batch normalisation and ReLU. The channels double at every second
    layer, where the image also shrinks by half as long as 4 pixels a side are left; h is the
    average over the last feature map.

    Parameters
    ----------
    width : int, default=64
        Channels of the first layer, >= 1.
    n_layers : int, default=4
        Number of layers, >= 1. h has ``width * 2 ** ((n_layers - 1) // 2)`` features.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import ConvNetEncoder
    >>> network = ConvNetEncoder().build((1, 8, 8))
    >>> network(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 128])
    """

    _parameter_constraints: dict = {
        "width": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, width=64, *, n_layers=4):
        self.width = width
        self.n_layers = n_layers

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Make the network for images of shape (c, h, w), with fresh weights.

        Raises
        ------
        ValueError
            If a parameter is out of range or the input is not images.
        """
        self._validate_params()
        channels, height, width = _image_shape(self, input_shape)
        side = min(height, width)
        layers: list[nn.Module] = []
        for i in range(self.n_layers):
            out_channels = self.width * 2 ** (i // 2)
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            if i % 2 and side >= 8:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            channels = out_channels
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        _init_convolutions(network)
        return network


class MLPEncoder(BaseEstimator):
    """Multilayer perceptron for vectors; h is the output of the last hidden layer.

    Images are flattened first.

    Parameters
    ----------
    hidden_dim : int, default=256
        Width of every layer and of h, >= 1.
    n_layers : int, default=2
        Number of layers of linear map, batch normalisation and ReLU, >= 1. SCARF has 4; on small
        tables 2 did as well or better.

    References
    ----------
    .. [1] Bahri, Jiang, Tay & Metzler (2022). SCARF. https://arxiv.org/abs/2106.15147

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import MLPEncoder
    >>> MLPEncoder(hidden_dim=32).build((10,))(torch.zeros(2, 10)).shape
    torch.Size([2, 32])
    """

    _parameter_constraints: dict = {
        "hidden_dim": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, hidden_dim=256, *, n_layers=2):
        self.hidden_dim = hidden_dim
        self.n_layers = n_layers

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Make the network for vectors (d,), with fresh weights.

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        self._validate_params()
        layers: list[nn.Module] = [nn.Flatten()]
        in_dim = torch.Size(input_shape).numel()
        for _ in range(self.n_layers):
            layers += [
                nn.Linear(in_dim, self.hidden_dim, bias=False),
                nn.BatchNorm1d(self.hidden_dim),
                nn.ReLU(inplace=True),
            ]
            in_dim = self.hidden_dim
        return nn.Sequential(*layers)


def torchvision_names() -> list[str]:
    """Names of the torchvision classification networks that `encoder` accepts.

    Examples
    --------
    >>> from sklearn_simclr.encoders import torchvision_names
    >>> "resnet18" in torchvision_names()
    True
    """
    return torchvision.models.list_models(module=torchvision.models)


def resolve_encoder(encoder, input_shape: tuple[int, ...], n_samples: int):
    """Turn the parameter `encoder` into what `build_encoder` takes.

    "auto" is an MLP for vectors, a small convolutional network below 24 pixels a side, and beyond
    a ResNet-18 whose width grows with the number of images. Encoder objects and modules are
    copied, so that the user cannot change them later.

    Raises
    ------
    ValueError
        If the encoder is a class instead of an object.
    """
    if isinstance(encoder, str):
        return _auto_encoder(input_shape, n_samples) if encoder == "auto" else _by_name(encoder)
    if isinstance(encoder, nn.Module):
        return copy.deepcopy(encoder).cpu()
    if hasattr(encoder, "build"):
        if isinstance(encoder, type):
            raise ValueError(
                f"encoder={encoder!r} is a class; pass an object, {encoder.__name__}()."
            )
        return clone(encoder)
    return encoder


def _auto_encoder(input_shape: tuple[int, ...], n_samples: int):
    if len(input_shape) == 1:
        return MLPEncoder()
    if min(input_shape[1:]) < 24:
        return ConvNetEncoder()
    width = 0.25 if n_samples <= 20_000 else 0.5 if n_samples <= 100_000 else 1.0
    return ResNetEncoder(width=width)


def _by_name(name: str):
    """Encoder object for a name that has one here, so that it fits small images; else the name."""
    if name == "mlp":
        return MLPEncoder()
    if name.startswith("resnet"):
        return ResNetEncoder(int(name.removeprefix("resnet")))
    return name


def build_encoder(encoder, input_shape: tuple[int, ...]) -> nn.Module:
    """Make the network of a resolved encoder on the CPU in float32.

    Fresh weights come from torch's global generator. The user's own module keeps its weights; a
    factory is called.

    Raises
    ------
    ValueError
        If the network cannot be built for this input.
    TypeError
        If a factory returns no ``nn.Module``.
    """
    if isinstance(encoder, str):
        network = _torchvision(encoder, input_shape)
    elif isinstance(encoder, nn.Module):
        network = copy.deepcopy(encoder)
    elif hasattr(encoder, "build"):
        network = encoder.build(input_shape)
    else:
        network = _call_factory(encoder)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"The 'encoder' factory must return an nn.Module, got {type(network).__name__}."
        )
    return network.to("cpu", torch.float32)


def _call_factory(factory):
    try:
        return factory()
    except Exception as error:
        raise ValueError(
            f"encoder={factory!r} could not be called without arguments to make a network: "
            f"{type(error).__name__}: {error}."
        ) from error


def feature_dim(network: nn.Module, input_shape: tuple[int, ...], encoder) -> int:
    """Width of the features h, by a trial with two blank samples.

    Raises
    ------
    ValueError
        If the network cannot take the input, or its output is not (n, d).
    """
    try:
        with torch.no_grad():
            h = network.eval()(torch.zeros(2, *input_shape, dtype=torch.float32))
    except Exception as error:
        raise ValueError(
            f"encoder={encoder!r} cannot take input of shape {('n', *input_shape)}: "
            f"{type(error).__name__}: {error}. Choose another encoder or image_size."
        ) from error
    if not isinstance(h, Tensor) or h.ndim != 2 or len(h) != 2 or not h.is_floating_point():
        got = f"shape {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
        raise ValueError(
            f"encoder={encoder!r} must map a batch of n samples to a float tensor of shape (n, d); "
            f"for 2 samples it returned {got}."
        )
    return h.shape[1]


def _torchvision(name: str, input_shape: tuple[int, ...]) -> nn.Module:
    """Make a torchvision classification network without its classifier, for any channels."""
    channels, height, width = _image_shape(name, input_shape)
    options: dict = {"num_classes": 1}
    if name.startswith("vit_"):
        options["image_size"] = height
    elif name.startswith("maxvit_"):
        options["input_size"] = (height, width)
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        network = torchvision.models.get_model(name, weights=None, **options)
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"encoder={name!r} cannot take images of {height} x {width} pixels: {error}. "
            "Choose another encoder or image_size."
        ) from error
    _remove_classifier(network)
    if channels != 3:
        _replace_first_convolution(network, channels)
    return network


def _remove_classifier(network: nn.Module) -> None:
    """Put nothing in the place of the last layer, and of the dropout just before it."""
    if isinstance(getattr(network, "dropout", None), nn.Dropout):
        network.dropout = nn.Identity()
    name = next(n for n in ("fc", "classifier", "head", "heads") if hasattr(network, n))
    head = getattr(network, name)
    if not isinstance(head, nn.Sequential):
        setattr(network, name, nn.Identity())
        return
    last = max(i for i, layer in enumerate(head) if isinstance(layer, nn.Linear | nn.Conv2d))
    head[last] = nn.Identity()
    if last and isinstance(head[last - 1], nn.Dropout):
        head[last - 1] = nn.Identity()


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _image_shape(encoder, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(
            f"encoder={encoder!r} needs images, but the rows of X are vectors of "
            f"{input_shape[0]} features: pass image_shape=(height, width) if they are images, "
            "or encoder='mlp'."
        )
    return input_shape
