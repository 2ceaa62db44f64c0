"""Encoders against torchvision's networks, and their shapes for all kinds of input."""

import pytest
import torch
import torchvision
from sklearn.base import clone
from torch import nn
from torchvision.ops import StochasticDepth

from sklearn_simclr.encoders import (
    ConvNetEncoder,
    MLPEncoder,
    ResNetEncoder,
    _torchvision,
    build_encoder,
    feature_dim,
    resolve_encoder,
    torchvision_names,
)

DEPTHS = (18, 34, 50, 101, 152)
# One small network of each family: its features, and a small side that it takes.
FAMILIES = {
    "googlenet": (1024, 32),
    "mnasnet0_5": (1280, 32),
    "mobilenet_v3_small": (1024, 32),
    "regnet_y_400mf": (440, 32),
    "shufflenet_v2_x0_5": (1024, 32),
    "squeezenet1_1": (512, 32),
}
HEAVY_FAMILIES = {
    "convnext_tiny": (768, 32),
    "densenet121": (1024, 32),
    "efficientnet_b0": (1280, 32),
    "inception_v3": (2048, 75),
    "mobilenet_v2": (1280, 32),
    "resnext50_32x4d": (2048, 32),
    "swin_t": (768, 32),
    "vgg11_bn": (4096, 32),
    "vit_b_32": (768, 64),
}
ALL_FAMILIES = [
    *FAMILIES.items(),
    *(pytest.param(*item, marks=pytest.mark.slow) for item in HEAVY_FAMILIES.items()),
]


def seeded_build(encoder, input_shape, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(encoder, input_shape)


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
@pytest.mark.parametrize("width", [1 / 64, 0.25, 1, 1.5, 2])
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


@pytest.mark.parametrize("kind", [ResNetEncoder, ConvNetEncoder, MLPEncoder])
def test_encoders_are_parameter_objects(kind):
    encoder = kind()
    assert clone(encoder).get_params() == encoder.get_params()
    for name, value in encoder.get_params().items():
        assert getattr(kind(**{name: value}), name) is value


@pytest.mark.parametrize("encoder", [ResNetEncoder(), ConvNetEncoder(), "shufflenet_v2_x0_5"])
def test_image_encoders_refuse_vectors_with_the_mend(encoder):
    with pytest.raises(ValueError, match=r"needs images, .* of 12 features: pass image_shape"):
        build_encoder(encoder, (12,))


# torchvision's networks by name


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name, expected", ALL_FAMILIES)
def test_torchvision_network_without_its_classifier(name, expected, channels):
    n_features, side = expected
    network = seeded_build(name, (channels, side, side))
    assert feature_dim(network, (channels, side, side), name) == n_features
    network.train()
    x = torch.randn(4, channels, side, side)
    h = network(x)
    assert h.shape == (4, n_features)
    (h * torch.randn_like(h)).sum().backward()
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == channels
    assert first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name, expected", ALL_FAMILIES)
def test_no_dropout_is_left_before_the_features(name, expected):
    if name.startswith("vgg"):
        pytest.skip("drops between its own hidden layers")
    side = expected[1]
    network = seeded_build(name, (3, side, side)).train()
    for module in network.modules():
        if isinstance(module, StochasticDepth):
            module.eval()
    x = torch.randn(4, 3, side, side)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in torchvision_names() if not n.startswith("regnet")])
def test_every_torchvision_network_gives_features(name):  # regnets compute on the way
    with torch.device("meta"):
        network = _torchvision(name, (1, 224, 224)).eval()
        h = network(torch.zeros(2, 1, 224, 224))
    assert h.ndim == 2 and len(h) == 2 and h.shape[1] > 100


@pytest.mark.parametrize(
    "name, shape",
    [
        ("inception_v3", (3, 32, 32)),
        ("vit_b_16", (3, 40, 40)),
        ("vit_b_16", (3, 32, 48)),
        ("alexnet", (3, 16, 16)),
    ],
)
def test_a_network_that_cannot_take_the_images_is_refused_by_name(name, shape):
    with pytest.raises(ValueError, match=f"encoder='{name}' cannot take .* image_size"):
        feature_dim(build_encoder(name, shape), shape, name)


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
    assert resolve_encoder("densenet121", (3, 32, 32), 100) == "densenet121"
    assert "resnet18" in torchvision_names() and "densenet121" in torchvision_names()


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
        (torch.zeros(2), "shape (2,)"),
        (torch.zeros(2, 3, 1, 1), "shape (2, 3, 1, 1)"),
        (torch.zeros(1, 3), "shape (1, 3)"),
        (torch.zeros(2, 3, dtype=torch.long), "shape (2, 3)"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), "tuple"),
        (None, "NoneType"),
    ],
)
def test_an_encoder_whose_output_is_not_n_by_d_is_refused(output, got):
    with pytest.raises(ValueError, match="must map a batch of n samples to a float") as error:
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
