"""The encoder f(.): networks that turn images or vectors into features h.

An encoder object only holds options; ``build(input_shape)`` makes the network, for images of
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

from sklearn_simclr._persistence import portable
from sklearn_simclr._pretrained import WEIGHTS_CONSTRAINT, load_pretrained, read_weights

__all__ = [
    "ConvNetEncoder",
    "MLPEncoder",
    "ResNetEncoder",
    "TorchvisionEncoder",
    "torchvision_names",
]

_STAGES = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
_LARGEST_SMALL_SIDE = 64
_WITH_CLASSES = nn.Linear | nn.Conv2d  # what turns features into classes in torchvision's networks
_AUXILIARY_CLASSIFIERS = ("aux1", "aux2", "AuxLogits")  # of GoogLeNet and Inception


class ResNetEncoder(BaseEstimator):
    """ResNet without its classifier; h is the average over the last feature map.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}, default=18
        Number of layers.
    width : float, default=1.0
        Factor for the number of channels of every layer, > 0. h has ``512 * width`` features at
        depths 18 and 34, ``2048 * width`` beyond.
    stem : {"auto", "small", "large"}, default="auto"
        The first layers. "large" is the original, a 7x7 convolution with stride 2 and max-pooling,
        which reduces the image fourfold. "small" is a 3x3 convolution with stride 1 and no pooling,
        as the paper uses for CIFAR-10 (appendix B.9). "auto" is "small" up to 64 pixels per side;
        with `weights` it is the stem that these have.
    weights : str, path, mapping or torchvision weights, default=None
        Initial weights; None: random ones. The path of a file written by ``torch.save``, which is
        read without running code; a state dict of tensors or arrays; or a member such as
        ``torchvision.models.ResNet18_Weights.DEFAULT``, which torchvision downloads. The names
        must be torchvision's; a common prefix such as "module." or "encoder." is stripped. Those
        of the classifier ("fc") are ignored; everything else has to fit. For images with another
        number of channels c, each channel of the first convolution becomes the sum over the given
        ones, divided by c, so that grey images give the same response.

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
        "weights": WEIGHTS_CONSTRAINT,
    }
    weights = None  # for objects that were pickled before this parameter existed

    def __init__(self, depth=18, *, width=1.0, stem="auto", weights=None):
        self.depth = depth
        self.width = width
        self.stem = stem
        self.weights = weights

    def __getstate__(self):
        """Return the attributes for pickling and copying."""
        return portable(super().__getstate__())

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Make the network for images of shape (c, h, w), with random weights or those given.

        Raises
        ------
        ValueError
            If a parameter is out of range, the input is not images, or the weights cannot be read
            or do not fit.
        """
        self._validate_params()
        channels, *sides = _image_shape(self, input_shape)
        weights = None if self.weights is None else read_weights(self.weights)
        stem = _stem(sides, weights) if self.stem == "auto" else self.stem
        network = _resnet(*_STAGES[self.depth], channels, self.width, stem)
        if weights is not None:
            load_pretrained(
                network,
                weights,
                first_convolution="conv1",
                classifiers=("fc",),
                encoder=_shown(self),
            )
        return network


def _stem(sides: list[int], weights: dict[str, Tensor] | None) -> str:
    """Choose the stem by the kernel of the first convolution in the weights, else by the size."""
    names = [name for name in weights or () if name.endswith("conv1.weight")]
    if names:
        kernel = weights[min(names, key=len)].shape[2:]  # blocks have longer names
        return "small" if kernel == (3, 3) else "large"
    return "small" if max(sides) <= _LARGEST_SMALL_SIDE else "large"


def _resnet(
    block, n_blocks: tuple[int, ...], in_channels: int, width: float, stem: str
) -> nn.Sequential:
    """Assemble torchvision's blocks under its names, with any stem and width."""
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
        shortcut = _shortcut(in_planes, planes * block.expansion, stride)
    return block(in_planes, planes, stride, shortcut)


def _shortcut(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    """Return a convolution of single pixels with its normalisation, under torchvision's names.

    With fewer than 8 channels a pooling of single pixels takes the stride, which is the same: on
    CPUs without AVX-512, oneDNN's gradient of strided weights writes beyond its memory there
    (https://github.com/uxlfoundation/oneDNN/issues/6035). It is wrong, or the process crashes.
    """
    shortcut = nn.Sequential()
    if in_planes < 8 and stride > 1:
        shortcut.add_module("pool", nn.AvgPool2d(1, stride))
        stride = 1
    shortcut.add_module("0", nn.Conv2d(in_planes, planes, 1, stride, bias=False))
    shortcut.add_module("1", nn.BatchNorm2d(planes))
    return shortcut


class ConvNetEncoder(BaseEstimator):
    """Small convolutional network for small images, such as digits and characters.

    Each layer is a 3x3 convolution, batch normalisation and ReLU. After every second layer the
    number of channels doubles, and the image is halved as long as 4 pixels per side are left; h is
    the average over the last feature map.

    Parameters
    ----------
    width : int, default=64
        Number of channels of the first layer, >= 1.
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
        """Make the network for images of shape (c, h, w), with random weights.

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
        Number of layers, >= 1, each a linear map, batch normalisation and ReLU. SCARF uses 4,
        which with few labels did better on one of three small tables and worse on another.

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
        """Make the network for vectors (d,), with random weights.

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

    Returns
    -------
    list of str
        Their names, sorted.

    Examples
    --------
    >>> from sklearn_simclr.encoders import torchvision_names
    >>> "resnet18" in torchvision_names()
    True
    """
    return torchvision.models.list_models(module=torchvision.models)


class TorchvisionEncoder(BaseEstimator):
    """A torchvision classification network without its classifier; h is the classifier's input.

    The networks were made for ImageNet, and most reduce an image 32-fold. Many take images of any
    size. These need a minimum, in pixels of the shorter side: Swin 4, GoogLeNet 15, SqueezeNet 17
    (version 1.1) or 21, DenseNet 29, ConvNeXt and VGG 32, AlexNet 63, Inception 75. Vision
    transformers take square images whose side is a multiple of their patch size (14, 16 or 32, the
    number in their name), MaxViT those whose side is a multiple of 224.

    Parameters
    ----------
    name : str
        One of :func:`torchvision_names`. "resnet18" is torchvision's own, with the stem for large
        images, unlike `ResNetEncoder`.
    weights : str, path, mapping or torchvision weights, default=None
        Initial weights, as in `ResNetEncoder`. Position embeddings of vision transformers are
        interpolated to the size of the images.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.encoders import TorchvisionEncoder
    >>> network = TorchvisionEncoder("mobilenet_v3_small").build((3, 32, 32))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 1024])
    """

    _parameter_constraints: dict = {
        "name": [StrOptions(set(torchvision_names()))],
        "weights": WEIGHTS_CONSTRAINT,
    }

    def __init__(self, name, *, weights=None):
        self.name = name
        self.weights = weights

    def __getstate__(self):
        """Return the attributes for pickling and copying."""
        return portable(super().__getstate__())

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Make the network for images of shape (c, h, w), with random weights or those given.

        Raises
        ------
        ValueError
            If a parameter is out of range, the input is not images or not of a size that the
            network can be built for, or the weights cannot be read or do not fit.
        """
        self._validate_params()
        channels, *sides = _image_shape(self, input_shape)
        network = _torchvision(self.name, *sides)
        classifier = _remove_classifier(network)
        first_convolution = _fit_first_convolution(network, channels)
        if self.weights is not None:
            load_pretrained(
                network,
                read_weights(self.weights),
                first_convolution=first_convolution,
                classifiers=(classifier, *_AUXILIARY_CLASSIFIERS),
                encoder=_shown(self),
            )
        return network


def _torchvision(name: str, height: int, width: int) -> nn.Module:
    """Make a torchvision network with random weights, including its classifier."""
    options: dict = {"num_classes": 1}
    if name.startswith("vit_"):
        options["image_size"] = height
    elif name.startswith("maxvit_"):
        options["input_size"] = (height, width)
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    try:
        return torchvision.models.get_model(name, weights=None, **options)
    except (ValueError, AssertionError) as error:
        cause = str(error).partition("\n")[0].rstrip(".!")
        raise ValueError(
            f"encoder={name!r} cannot take images of {height} x {width} pixels: {cause}. "
            "Choose another encoder or image_size."
        ) from error


def _remove_classifier(network: nn.Module) -> str:
    """Remove the last layer, and the dropout just before it.

    Returns the name of the last layer.
    """
    if isinstance(getattr(network, "dropout", None), nn.Dropout):
        network.dropout = nn.Identity()
    name = next(n for n in ("fc", "classifier", "head", "heads") if hasattr(network, n))
    head = getattr(network, name)
    if not isinstance(head, nn.Sequential):
        setattr(network, name, nn.Identity())
        return name
    layers = list(head.named_children())
    last = max(i for i, (_, layer) in enumerate(layers) if isinstance(layer, _WITH_CLASSES))
    head[last] = nn.Identity()
    if last and isinstance(head[last - 1], nn.Dropout):
        head[last - 1] = nn.Identity()
    return f"{name}.{layers[last][0]}"


def _fit_first_convolution(network: nn.Module, channels: int) -> str:
    """Give the first convolution `channels` input channels, and return its name.

    Its random weights are scaled so that the response to the channels is as large as before.
    """
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if channels == old.in_channels:
        return name
    new = copy.deepcopy(old)
    new.in_channels = channels
    scale = old.weight.std() * (old.in_channels / channels) ** 0.5
    fresh = torch.randn(old.out_channels, channels, *old.kernel_size, device=old.weight.device)
    new.weight = nn.Parameter(scale.detach() * fresh)
    network.set_submodule(name, new)
    return name


def resolve_encoder(encoder, input_shape: tuple[int, ...], n_samples: int):
    """Turn the parameter `encoder` into what `build_encoder` takes.

    "auto" is an MLP for vectors, a small convolutional network below 24 pixels per side, and a
    ResNet-18 whose width grows with the number of images beyond. Encoder objects and modules are
    copied, so that the user cannot change them later.

    Raises
    ------
    ValueError
        If the encoder is a class instead of an object, or a scripted module.
    """
    if isinstance(encoder, str):
        return _auto_encoder(input_shape, n_samples) if encoder == "auto" else _by_name(encoder)
    if isinstance(encoder, torch.jit.ScriptModule):
        raise ValueError(
            f"encoder={type(encoder).__name__} is a scripted module, copies of which cannot be "
            "trained. Pass the module that it was made from, or a function that returns it."
        )
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
    """Encoder object for a name; ResNets are those of this module, which suit small images."""
    if name == "mlp":
        return MLPEncoder()
    if name.startswith("resnet"):
        return ResNetEncoder(int(name.removeprefix("resnet")))
    return TorchvisionEncoder(name)


def without_weights(encoder, network: nn.Module | None = None):
    """Return the encoder without its initial weights, which only matter when training begins.

    Parameters
    ----------
    encoder
        An encoder of any kind; those without initial weights are returned unchanged.
    network : nn.Module, default=None
        The network that the encoder has built. If the weights determined the stem, it is then
        fixed, so that the result builds the same architecture again.
    """
    if not isinstance(encoder, ResNetEncoder | TorchvisionEncoder) or encoder.weights is None:
        return encoder
    params = encoder.get_params() | {"weights": None}
    if network is not None and params.get("stem") == "auto":
        params["stem"] = "small" if network.conv1.kernel_size == (3, 3) else "large"
    return type(encoder)(**params)


def _shown(encoder) -> str:
    """Name an encoder in a message, without weights or layers: torchvision's by their name."""
    if isinstance(encoder, TorchvisionEncoder):
        return repr(encoder.name)
    if isinstance(encoder, nn.Module):  # of which repr shows every layer
        return type(encoder).__name__
    return repr(without_weights(encoder))


def build_encoder(encoder, input_shape: tuple[int, ...]) -> nn.Module:
    """Make the network of a resolved encoder on the CPU in float32.

    Random weights come from torch's global generator. A user's module keeps its weights, an
    encoder object may have initial ones; a factory is called.

    Raises
    ------
    ValueError
        If the network cannot be built for this input.
    TypeError
        If a factory returns no ``nn.Module``.
    """
    if isinstance(encoder, nn.Module):
        network = copy.deepcopy(encoder)
    elif hasattr(encoder, "build"):
        network = encoder.build(input_shape)
    else:
        network = _call_factory(encoder)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"The 'encoder' factory must return an nn.Module, got {type(network).__name__}."
        )
    network = network.cpu().float()  # complex numbers stay complex
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.contiguous())  # expanded ones cannot be loaded into
    return network


def _call_factory(factory):
    try:
        return factory()
    except Exception as error:
        raise ValueError(
            f"encoder={factory!r} could not be called without arguments to make a network: "
            f"{type(error).__name__}: {error}."
        ) from error


def feature_dim(network: nn.Module, input_shape: tuple[int, ...], encoder) -> int:
    """Return the width of the features h, found by passing two blank samples.

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
            f"encoder={_shown(encoder)} cannot take input of shape {('n', *input_shape)}: "
            f"{type(error).__name__}: {error}. Choose another encoder or image_size."
        ) from error
    is_tensor = isinstance(h, Tensor)
    if not is_tensor or h.ndim != 2 or len(h) != 2 or h.dtype != torch.float32:
        got = f"{h.dtype} of shape {tuple(h.shape)}" if is_tensor else type(h).__name__
        raise ValueError(
            f"encoder={_shown(encoder)} must map a batch of n samples to a float32 tensor of shape "
            f"(n, d); for 2 samples it returned {got}."
        )
    return h.shape[1]


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _image_shape(encoder, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(
            f"encoder={_shown(encoder)} needs images, but the rows of X are vectors of "
            f"{input_shape[0]} features: pass image_shape=(height, width) if they are images, "
            "or encoder='mlp'."
        )
    return input_shape
