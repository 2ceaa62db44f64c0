"""Encoders against torchvision's networks, and their shapes for all kinds of input."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from sklearn.base import BaseEstimator, clone
from torch import nn
from torchvision.models import regnet
from torchvision.ops import StochasticDepth

from sklearn_simclr.encoders import (
    ConvNetEncoder,
    MLPEncoder,
    ResNetEncoder,
    TorchvisionEncoder,
    _fit_first_convolution,
    _remove_classifier,
    _shortcut,
    _torchvision,
    build_encoder,
    feature_dim,
    resolve_encoder,
    torchvision_names,
)

DEPTHS = (18, 34, 50, 101, 152)
# One small network of each family: its features, and the smallest side that it takes.
FAMILIES = {
    "densenet121": (1024, 29),
    "efficientnet_b0": (1280, 1),
    "googlenet": (1024, 15),
    "mnasnet0_5": (1280, 1),
    "mobilenet_v2": (1280, 1),
    "mobilenet_v3_small": (1024, 1),
    "regnet_x_400mf": (400, 1),
    "regnet_y_400mf": (440, 1),
    "shufflenet_v2_x0_5": (1024, 1),
    "squeezenet1_0": (512, 21),
    "squeezenet1_1": (512, 17),
}
HEAVY_FAMILIES = {
    "alexnet": (4096, 63),
    "convnext_tiny": (768, 32),
    "efficientnet_v2_s": (1280, 1),
    "inception_v3": (2048, 75),
    "maxvit_t": (512, 221),
    "mobilenet_v3_large": (1280, 1),
    "resnet50": (2048, 1),
    "resnext50_32x4d": (2048, 1),
    "swin_t": (768, 4),
    "swin_v2_t": (768, 4),
    "vgg11_bn": (4096, 32),
    "vit_b_32": (768, 32),
    "wide_resnet50_2": (2048, 1),
}
ALL_FAMILIES = [
    *FAMILIES.items(),
    *(pytest.param(*item, marks=pytest.mark.slow) for item in HEAVY_FAMILIES.items()),
]
WITH_LOGITS = nn.Linear | nn.Conv2d
DROPS_WITHIN = ("alexnet", "vgg11_bn")  # between hidden layers of their own


def seeded(function, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*args, **options)


def seeded_build(encoder, input_shape):
    return seeded(build_encoder, encoder, input_shape)


# ResNet


@pytest.mark.parametrize("name, side", [("resnet18", 96), ("resnet50", 65)])
def test_resnet_is_torchvisions_without_the_classifier(name, side):
    theirs = torchvision.models.get_model(name, weights=None)
    theirs.fc = nn.Identity()
    network = seeded_build(ResNetEncoder(int(name[6:]), stem="large"), (3, side, side))
    assert list(network.state_dict()) == list(theirs.state_dict())
    network.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), theirs.eval()(x))
        torch.testing.assert_close(network.train()(x), theirs.train()(x))


@pytest.mark.parametrize("depth", DEPTHS)
def test_resnet_of_every_depth_has_torchvisions_weights(depth):
    with torch.device("meta"):
        network = ResNetEncoder(depth).build((3, 224, 224))
        theirs = torchvision.models.get_model(f"resnet{depth}")
    shapes = {name: value.shape for name, value in theirs.state_dict().items() if "fc" not in name}
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "shape, stem, small",
    [
        ((64, 64), "auto", True),
        ((65, 65), "auto", False),
        ((32, 65), "auto", False),
        ((65, 32), "auto", False),
        ((8, 8), "large", False),
        ((224, 224), "small", True),
    ],
)
def test_resnet_stem_is_small_up_to_64_pixels(shape, stem, small):
    with torch.device("meta"):
        network = ResNetEncoder(stem=stem).build((3, *shape))
    assert network.conv1.kernel_size == ((3, 3) if small else (7, 7))
    assert network.conv1.stride == ((1, 1) if small else (2, 2))
    assert hasattr(network, "maxpool") != small


@pytest.mark.parametrize("stem, shrinkage", [("small", 8), ("large", 32)])
def test_resnet_shrinks_the_image(stem, shrinkage):
    with torch.device("meta"):
        network = ResNetEncoder(width=1 / 16, stem=stem).build((3, 64, 96))
        maps = nn.Sequential(*list(network)[:-2])(torch.zeros(2, 3, 64, 96))
    assert maps.shape[2:] == (64 // shrinkage, 96 // shrinkage)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("width", [1 / 64, 0.25, 1, 1.5, 2, 4])
def test_resnet_width_multiplies_the_features(depth, width):
    with torch.device("meta"):
        h = ResNetEncoder(depth, width=width).build((1, 16, 16))(torch.zeros(2, 1, 16, 16))
    assert h.shape == (2, (512 if depth < 50 else 2048) * width)


def test_resnet_of_any_width_keeps_a_channel():
    h = ResNetEncoder(width=1e-6).build((3, 16, 16))(torch.zeros(2, 3, 16, 16))
    assert h.shape == (2, 1)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 2), (4, 5, 33)])
def test_resnet_takes_images_of_few_pixels(shape):
    h = ResNetEncoder(width=1 / 16).build(shape)(torch.randn(2, *shape))
    assert h.shape == (2, 32) and h.isfinite().all()


@pytest.mark.parametrize("side", [1, 2, 7, 8])
@pytest.mark.parametrize("in_planes", [1, 7, 8])
def test_a_shortcut_is_a_strided_convolution_with_its_normalisation(in_planes, side):
    shortcut = _shortcut(in_planes, 16, 2).double()
    strided = nn.Sequential(nn.Conv2d(in_planes, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    strided.double().load_state_dict(shortcut.state_dict())
    x = torch.randn(4, in_planes, side, side, dtype=torch.float64, requires_grad=True)
    dy = torch.randn_like(strided(x))
    torch.testing.assert_close(shortcut(x), strided(x))
    for expected, gradient in zip(
        torch.autograd.grad(strided(x), [x, *strided.parameters()], dy),
        torch.autograd.grad(shortcut(x), [x, *shortcut.parameters()], dy),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected)


GRADIENTS_OF_FEW_CHANNELS = """
import copy, torch
from sklearn_simclr.encoders import ResNetEncoder
torch.set_num_threads(2)
torch.manual_seed(0)
exact = ResNetEncoder(width=1 / 16).build((3, 8, 8)).double()
network = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
x = torch.randn(32, 3, 8, 8, dtype=torch.float64)
exact(x).square().sum().backward()
network(x.float().to(memory_format=torch.channels_last)).square().sum().backward()
for (name, weight), expected in zip(network.named_parameters(), exact.parameters(), strict=True):
    error = (weight.grad - expected.grad).abs().max() / expected.grad.abs().max()
    assert error < 1e-3, (name, error)
"""


def test_gradients_of_few_channels_on_a_cpu_with_avx2(root):
    done = subprocess.run(
        [sys.executable, "-c", GRADIENTS_OF_FEW_CHANNELS],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,  # seconds; it has been seen to hang
    )
    assert done.returncode == 0, done.stderr


# The other encoders


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 15, 16, 28])
@pytest.mark.parametrize("n_layers, dim", [(1, 4), (2, 4), (3, 8), (4, 8), (7, 32)])
def test_convnet_takes_images_of_few_pixels(side, n_layers, dim):
    network = ConvNetEncoder(4, n_layers=n_layers).build((1, side, side + 1))
    convolutions = [m for m in network if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == n_layers
    h = network(torch.randn(3, 1, side, side + 1))
    assert h.shape == (3, dim) and h.isfinite().all()


@pytest.mark.parametrize("side, n_pools", [(7, 0), (8, 1), (15, 1), (16, 2), (64, 3)])
def test_convnet_shrinks_while_4_pixels_are_left(side, n_pools):
    network = ConvNetEncoder(2, n_layers=6).build((1, side, 2 * side))
    assert sum(isinstance(m, nn.MaxPool2d) for m in network) == n_pools


@pytest.mark.parametrize("shape", [(5,), (1,), (3, 4, 4)])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_mlp_takes_vectors_and_flattens_images(shape, n_layers):
    network = MLPEncoder(hidden_dim=6, n_layers=n_layers).build(shape)
    assert sum(isinstance(m, nn.Linear) for m in network) == n_layers
    assert network(torch.randn(4, *shape)).shape == (4, 6)


@pytest.mark.parametrize(
    "encoder",
    [ResNetEncoder(width=0.1), ConvNetEncoder(4), MLPEncoder(8)],
    ids=lambda e: type(e).__name__,
)
def test_gradients_reach_every_weight(encoder):
    network = seeded_build(encoder, (3, 16, 16)).train()
    h = network(torch.randn(8, 3, 16, 16))
    (h * torch.randn_like(h)).sum().backward()
    assert all(param.grad.abs().sum() > 0 for param in network.parameters())


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (ResNetEncoder, "depth", 20),
        (ResNetEncoder, "depth", "18"),
        (ResNetEncoder, "width", 0),
        (ResNetEncoder, "stem", "tiny"),
        (ResNetEncoder, "weights", 3),
        (ConvNetEncoder, "width", 0),
        (ConvNetEncoder, "n_layers", 1.5),
        (MLPEncoder, "hidden_dim", -1),
        (MLPEncoder, "n_layers", 0),
    ],
)
def test_options_out_of_range_are_refused_with_name_and_value(kind, name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter of {kind.__name__}") as error:
        kind(**{name: value}).build((3, 16, 16))
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "encoder",
    [ResNetEncoder(), ConvNetEncoder(), MLPEncoder(), TorchvisionEncoder("swin_t")],
    ids=lambda e: type(e).__name__,
)
def test_encoders_are_parameter_objects(encoder):
    kind = type(encoder)
    assert clone(encoder).get_params() == encoder.get_params()
    for name, value in encoder.get_params().items():
        assert getattr(kind(**encoder.get_params() | {name: value}), name) is value


@pytest.mark.parametrize(
    "encoder", [ResNetEncoder(), ConvNetEncoder(), TorchvisionEncoder("shufflenet_v2_x0_5")]
)
def test_image_encoders_refuse_vectors_with_the_mend(encoder):
    with pytest.raises(ValueError, match=r"needs images, .* of 12 features: pass image_shape"):
        build_encoder(encoder, (12,))


# torchvision's networks by name


def theirs_of(name, side):
    """Return torchvision's network of a name with its thousand classes, and its last layer."""
    options = {"image_size": side} if name.startswith("vit") else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # the random draws take long
    network = seeded(torchvision.models.get_model, name, weights=None, **options)
    layers = [m for n, m in network.named_modules() if "aux" not in n.lower()]
    return network, [m for m in layers if isinstance(m, WITH_LOGITS)][-1]


def freeze_stochastic_depth(network):
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.eval()


@pytest.mark.parametrize("name, expected", ALL_FAMILIES)
def test_features_are_what_torchvisions_last_layer_is_given(name, expected):
    n_features, side = expected
    theirs, last = theirs_of(name, side)
    network = TorchvisionEncoder(name, weights=theirs.state_dict()).build((3, side, side))
    assert feature_dim(network, (3, side, side), name) == n_features
    x = torch.randn(2, 3, side, side)
    given = []
    last.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    with torch.no_grad():
        theirs.eval()(x)
        h = network.eval()(x)
    expected = given[0].mean((2, 3)) if given[0].ndim == 4 else given[0]  # SqueezeNet's: maps
    torch.testing.assert_close(h, expected)
    assert h.std(0).max() > 0


@pytest.mark.parametrize("name, expected", ALL_FAMILIES)
def test_gradients_reach_every_weight_of_a_torchvision_network(name, expected):
    side = expected[1] if name in ("maxvit_t", "inception_v3") else max(32, expected[1])
    network = seeded_build(TorchvisionEncoder(name), (1, side, side)).train()
    freeze_stochastic_depth(network)
    x = seeded(torch.randn, 3, 1, side, side)
    h = network(x)
    assert h.shape == (3, expected[0])
    (h * seeded(torch.randn, *h.shape)).sum().backward()
    for parameter_name, param in network.named_parameters():
        assert param.grad is not None, parameter_name
        assert param.grad.isfinite().all(), parameter_name
        assert param.ndim == 1 or param.grad.any(), parameter_name
    if name not in DROPS_WITHIN:
        with torch.no_grad():
            assert torch.equal(network(x), h)  # no dropout is left before the features


@pytest.mark.parametrize("name, expected", ALL_FAMILIES)
def test_images_of_a_size_that_it_cannot_take_are_refused_with_size_and_mend(name, expected):
    side = expected[1]
    encoder = TorchvisionEncoder(name)
    shapes = [(side - 1, side - 1), (2 * side, side - 1)] if side > 1 else []
    if name.startswith(("vit", "maxvit")):
        shapes.append((side, 2 * side))
    if name.startswith("vit"):
        shapes.append((side + 1, side + 1))
    for shape in shapes:
        numbers = f"{shape[0]}.*{shape[1]}"
        with pytest.raises(ValueError, match=f"'{name}' cannot take .*{numbers}.* image_size"):
            feature_dim(build_encoder(encoder, (3, *shape)), (3, *shape), encoder)


@pytest.fixture
def regnets_on_meta(monkeypatch):
    """Let RegNets be made on the meta device, although they compute their widths by tensors."""
    compute = regnet.BlockParams.from_init_params

    def on_cpu(**params):
        with torch.device("cpu"):
            return compute(**params)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)


def test_every_torchvision_network_loses_its_last_layer_only(regnets_on_meta):
    for name in torchvision_names():
        with torch.device("meta"):
            network = _torchvision(name, 224, 224)
            modules = dict(network.named_modules())
            first = next(n for n, m in modules.items() if isinstance(m, nn.Conv2d))
            last = [n for n, m in modules.items() if isinstance(m, WITH_LOGITS)][-1]
            assert _remove_classifier(network) == last
            assert _fit_first_convolution(network, 4) == first
        now = dict(network.named_modules())
        assert isinstance(now[last], nn.Identity), name
        changed = {n for n, module in modules.items() if now[n] is not module} - {last, first}
        assert all(isinstance(modules[n], nn.Dropout) for n in changed), name
        assert len(changed) <= 1, name
        before, after = vars(modules[first]), vars(now[first])
        options = ("stride", "padding", "dilation", "groups", "padding_mode", "out_channels")
        assert {o: before[o] for o in options} == {o: after[o] for o in options}, name
        assert now[first].in_channels == now[first].weight.shape[1] == 4, name


@pytest.mark.slow
def test_every_torchvision_network_gives_its_last_layers_input(regnets_on_meta):
    for name in torchvision_names():
        with torch.device("meta"), torch.no_grad():
            layers = list(_torchvision(name, 224, 224).modules())
            weight = [m for m in layers if isinstance(m, WITH_LOGITS)][-1].weight
            network = TorchvisionEncoder(name).build((1, 224, 224)).eval()
            h = network(torch.zeros(2, 1, 224, 224))
        assert h.shape == (2, weight.shape[1]), name


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])  # without a bias, with
@pytest.mark.parametrize("channels", [1, 4, 12])
def test_first_convolution_answers_other_channels_as_loudly(name, channels):
    networks = [seeded_build(TorchvisionEncoder(name), (c, 64, 64)) for c in (3, channels)]
    three, other = (
        next(m for m in network.modules() if isinstance(m, nn.Conv2d)) for network in networks
    )
    # The squares add up to the variance of the response to noise.
    loudness = [float(layer.weight.detach().square().sum()) for layer in (three, other)]
    assert other.in_channels == channels
    assert loudness[1] == pytest.approx(loudness[0], rel=0.2)
    if three.bias is not None:
        assert torch.equal(other.bias, three.bias)


def test_a_convolution_for_other_channels_keeps_all_its_options():
    options = {"padding": 2, "dilation": 2, "padding_mode": "reflect", "bias": False}
    network = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 4, 3, 2, **options)))
    assert _fit_first_convolution(network, 2) == "1.0"
    expected = nn.Conv2d(2, 4, 3, 2, **options)
    assert repr(network[1][0]) == repr(expected)
    assert network[1][0](torch.ones(1, 2, 9, 9)).shape == expected(torch.ones(1, 2, 9, 9)).shape
    assert network[1][0].weight.requires_grad


# The parameter `encoder`


@pytest.mark.parametrize(
    "input_shape, n_samples, expected",
    [
        ((12,), 100, MLPEncoder()),
        ((1, 8, 8), 10**6, ConvNetEncoder()),
        ((3, 23, 200), 100, ConvNetEncoder()),
        ((3, 24, 24), 20_000, ResNetEncoder(width=0.25)),
        ((3, 32, 32), 20_001, ResNetEncoder(width=0.5)),
        ((3, 32, 32), 100_000, ResNetEncoder(width=0.5)),
        ((3, 32, 32), 100_001, ResNetEncoder(width=1.0)),
    ],
)
def test_auto_weighs_image_size_and_number_of_images(input_shape, n_samples, expected):
    assert repr(resolve_encoder("auto", input_shape, n_samples)) == repr(expected)


@pytest.mark.parametrize("depth", DEPTHS)
def test_resnets_by_name_fit_small_images(depth):
    encoder = resolve_encoder(f"resnet{depth}", (3, 32, 32), 100)
    assert repr(encoder) == repr(ResNetEncoder(depth))


def test_other_names():
    assert isinstance(resolve_encoder("mlp", (3, 8, 8), 100), MLPEncoder)
    encoder = resolve_encoder("densenet121", (3, 32, 32), 100)
    assert isinstance(encoder, TorchvisionEncoder) and encoder.name == "densenet121"
    assert "resnet18" in torchvision_names() and "densenet121" in torchvision_names()


def test_unknown_torchvision_name_is_refused():
    with pytest.raises(ValueError, match=r"'name' parameter of TorchvisionEncoder .* 'resnet19'"):
        TorchvisionEncoder("resnet19").build((3, 32, 32))


def test_torchvisions_own_resnet_keeps_the_stem_for_large_images():
    with torch.device("meta"):
        network = TorchvisionEncoder("resnet18").build((3, 32, 32))
    assert network.conv1.kernel_size == (7, 7)


def test_an_encoder_object_is_copied():
    own = ConvNetEncoder(8)
    resolved = resolve_encoder(own, (1, 8, 8), 100)
    assert resolved is not own and resolved.get_params() == own.get_params()


def test_a_module_is_copied_with_its_weights():
    own = nn.Linear(3, 2).double()
    weight = own.weight.detach().clone()
    network = build_encoder(own, (3,))
    assert torch.equal(network.weight, weight.float())
    with torch.no_grad():
        network.weight.zero_()
    assert own.weight.dtype == torch.float64 and torch.equal(own.weight, weight)


def test_a_factory_is_called_for_each_network():
    networks = [build_encoder(lambda: nn.Linear(3, 2), (3,)) for _ in range(2)]
    assert not torch.equal(networks[0].weight, networks[1].weight)


def test_networks_are_made_on_the_cpu_in_float32():
    network = build_encoder(MLPEncoder(), (3,))
    assert {param.device.type for param in network.parameters()} == {"cpu"}
    assert build_encoder(lambda: nn.Linear(3, 2).half(), (3,)).weight.dtype == torch.float32


@pytest.mark.parametrize("encoder", [lambda: "network", lambda: None, lambda: nn.Linear])
def test_a_factory_that_returns_no_module_is_refused(encoder):
    with pytest.raises(TypeError):
        build_encoder(encoder, (3,))


class Filter(nn.Module):
    """Filters vectors in the domain of frequencies."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factors", torch.randn(4, dtype=torch.complex64))
        self.linear = nn.Linear(6, 6, dtype=torch.float64)

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(self.linear(x)) * self.factors, n=6)


def test_complex_numbers_stay_what_they_are():
    filtering = Filter()
    network = build_encoder(filtering, (6,))
    assert network.linear.weight.dtype == torch.float32
    assert torch.equal(network.factors, filtering.factors)


def test_models_with_expanded_buffers_can_be_used(simclr, digits):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    network.register_buffer("scales", torch.ones(1).expand(16))
    model = simclr(encoder=network).fit(digits[0])
    assert model.partial_fit(digits[0]).transform(digits[0]).shape == (64, 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_module_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)))
    with pytest.raises(ValueError, match=r"scripted module.* Pass the module that it was made f"):
        resolve_encoder(scripted, (3,), 10)


def test_the_refusal_of_a_factory_names_what_it_returned():
    with pytest.raises(TypeError, match=r"'encoder' factory must return an nn\.Module, got str"):
        build_encoder(lambda: "network", (3,))


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


@pytest.mark.parametrize(
    "output, got",
    [
        (torch.zeros(2), "torch.float32 of shape (2,)"),
        (torch.zeros(2, 3, 1, 1), "torch.float32 of shape (2, 3, 1, 1)"),
        (torch.zeros(1, 3), "torch.float32 of shape (1, 3)"),
        (torch.zeros(2, 3, dtype=torch.long), "torch.int64 of shape (2, 3)"),
        (torch.zeros(2, 3, dtype=torch.float64), "torch.float64 of shape (2, 3)"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), "tuple"),
        (None, "NoneType"),
    ],
)
def test_an_encoder_whose_output_is_not_n_by_d_is_refused(output, got):
    with pytest.raises(ValueError, match="must map a batch of n samples to a float32") as error:
        feature_dim(Returns(output), (3,), "mine")
    assert "encoder='mine'" in str(error.value)
    assert str(error.value).endswith(f"it returned {got}.")


def test_an_encoder_that_cannot_take_the_input_is_refused_with_the_cause():
    with pytest.raises(ValueError, match=r"encoder='mine' .*RuntimeError: .*mat1 and mat2"):
        feature_dim(nn.Linear(4, 2), (3,), "mine")


def test_the_trial_leaves_batch_norm_as_it_was():
    network = MLPEncoder(4, n_layers=1).build((3,))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert feature_dim(network, (3,), "mine") == 4
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Holder(BaseEstimator):
    """Encoder object that makes the same network each time."""

    def __init__(self, network):
        self.network = network

    def build(self, input_shape):
        return self.network


def test_networks_that_share_weights_are_refused_before_training(simclr, digits):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    before = network[1].weight.clone()
    weight = torch.randn(4, 64)

    def of_common_weights():
        linear = nn.Linear(64, 4)
        linear.weight = nn.Parameter(weight)
        return nn.Sequential(nn.Flatten(), linear)

    makers = lambda: network, lambda: nn.Sequential(network, nn.ReLU()), Holder(network)
    makers = *makers, of_common_weights
    for encoder in makers:
        with pytest.raises(ValueError, match="makes networks that share their weights"):
            simclr(encoder=encoder).fit(digits[0])
    assert torch.equal(network[1].weight, before)
    assert simclr(encoder=lambda: copy.deepcopy(network)).fit(digits[0]).n_iter_ == 2
    frozen = copy.deepcopy(network).requires_grad_(False)
    assert (
        simclr(encoder=lambda: nn.Sequential(frozen, nn.Linear(4, 4))).fit(digits[0]).n_iter_ == 2
    )


def with_a_closure():
    """Make a network whose copies would still use its own weights."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    network.forward = lambda x: network[1](network[0](x)).relu()
    return network


def with_weights_that_torch_cannot_copy():
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 4)))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("make", [with_a_closure, with_weights_that_torch_cannot_copy])
def test_a_network_that_cannot_be_copied_is_trained_from_a_factory(simclr, digits, make):
    model = simclr(encoder=make, max_epochs=1, learning_rate=0.1).fit(digits[0])
    weights, before = model._weights, model.set_params(learning_rate=1e-9).fit(digits[0])._weights
    names = [name for name in weights if name.startswith("encoder")]
    assert names and all(abs(weights[name] - before[name]).max() > 0.01 for name in names)
    assert np.array_equal(model.transform(digits[0]), model.transform(digits[0]))


class Masked(nn.Module):
    """Encoder with a buffer of -inf, as masks of attention are, and one that overflows later."""

    def __init__(self, overflows):
        super().__init__()
        self.linear, self.overflows = nn.Linear(64, 4), overflows
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("statistic", torch.ones(1))

    def forward(self, x):
        if self.training and self.overflows:
            self.statistic *= 1e30
        h = self.linear(x.flatten(1))
        return (h[:, :, None] * h[:, None] + self.mask).softmax(2).sum(1)


def test_a_mask_of_infinities_is_no_overflow(simclr, digits):
    assert np.isfinite(simclr(encoder=Masked(overflows=False)).fit_transform(digits[0])).all()
    with pytest.raises(FloatingPointError, match="weights up to inf"):
        simclr(encoder=Masked(overflows=True)).fit(digits[0])
    unused = Masked(overflows=False)
    unused.weight = nn.Parameter(torch.tensor([torch.nan]))
    with pytest.raises(FloatingPointError, match="weights up to nan"):
        simclr(encoder=unused).fit(digits[0])


class Late(nn.Module):
    """Encoder with a buffer that is made in its first pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.register_buffer("scales", None)

    def forward(self, x):
        if self.scales is None:
            self.scales = torch.ones(4)
        return self.linear(x.flatten(1)) * self.scales


def test_a_state_dict_that_changes_in_the_first_pass_is_refused_before_training(simclr, digits):
    with pytest.raises(ValueError, match=r'encoder=Late .*"encoder\.scales".* persistent=False'):
        simclr(encoder=Late()).fit(digits[0])


class Viewing(nn.Module):
    """Network that needs the default layout in memory, and a buffer that is drawn."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Conv2d(1, 4, 3)
        self.register_buffer("drawn", torch.empty(4 * 6 * 6, 5).normal_(), persistent=False)

    def forward(self, x):
        return self.layers(x).view(len(x), -1) @ self.drawn


class OfAUser(ConvNetEncoder):
    def build(self, input_shape):
        return Viewing()


def test_a_users_subclass_is_not_taken_for_an_encoder_of_this_package(simclr, digits):
    model = simclr(encoder=OfAUser()).fit(digits[0])
    assert np.array_equal(model.transform(digits[0]), model.transform(digits[0]))


class Turning(nn.Module):
    """Encoder with complex weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 16, dtype=torch.complex64) / 8)

    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.weight).abs()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_complex_weights_are_trained(simclr, digits, optimizer, precision):
    torch.manual_seed(0)
    encoder = Turning()
    model = simclr(encoder=encoder, optimizer=optimizer, precision=precision, max_epochs=9)
    weight = model.fit(digits[0])._weights["encoder.weight"]
    assert min(model.loss_curve_[-3:]) < model.loss_curve_[0]
    assert abs(weight).max() < 1
    change = weight - encoder.weight.detach().numpy()
    assert 0.5 < np.linalg.norm(change.imag) / np.linalg.norm(change.real) < 2


def test_a_large_module_is_named_by_its_class(simclr, digits):
    with pytest.raises(ValueError, match="encoder=ResNet cannot take input of shape") as error:
        simclr(encoder=torchvision.models.resnet18()).fit(digits[0])
    assert len(str(error.value)) < 400
