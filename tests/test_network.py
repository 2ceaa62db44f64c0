"""The network: its normalisation, its fresh weights and its layout in memory."""

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr._network import build_network, dropping_idle_strides
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder, resolve_encoder

CPU = torch.device("cpu")
ONE_IMAGE = (3, 16, 16)


class SeenByEncoder(nn.Module):
    """Keeps what it is given and returns flat features, as torch's tutorials do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.seen = x
        x = self.conv(x)
        return x.view(len(x), -1)


def make_network(encoder, input_shape=ONE_IMAGE, *, seed=0, n_features=None):
    mean = np.linspace(0.2, 0.6, input_shape[0], dtype=np.float32)
    encoder = resolve_encoder(encoder, input_shape, 100)
    options = {"n_features": n_features, "seed": seed, "device": CPU}
    return build_network(encoder, (8, 2), input_shape, mean, mean + 0.1, **options)


def images(n=4):
    batch = torch.rand(n, *ONE_IMAGE[1:], 3, generator=torch.Generator().manual_seed(0))
    return batch.permute(0, 3, 1, 2)  # channels last in memory, as batches come


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_encoder_sees_normalised_pixels():
    network = make_network(SeenByEncoder())
    x = images()
    network(x)
    mean, scale = (part.numpy()[:, None, None] for part in (network.mean, network.scale))
    np.testing.assert_allclose(network.encoder.seen, (x.numpy() - mean) / scale, rtol=1e-6)
    assert not {"mean", "scale"} & set(network.state_dict())


def test_vectors_are_normalised_feature_by_feature():
    network = make_network(nn.Flatten(), (5,))
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    expected = (x.numpy() - network.mean.numpy()) / network.scale.numpy()
    np.testing.assert_allclose(network(x), expected, rtol=1e-6)
    assert not {"mean", "scale"} & set(network.state_dict())


@pytest.mark.parametrize("encoder", [ResNetEncoder(width=0.1), ConvNetEncoder(8), "resnet18"])
def test_convolutions_run_on_channels_last(encoder):
    network = make_network(encoder)
    convolutions = [
        m for m in network.modules() if isinstance(m, nn.Conv2d) if m.kernel_size[0] > 1
    ]
    assert convolutions and all(is_channels_last(conv.weight) for conv in convolutions)
    seen = []
    convolutions[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(images().contiguous())
    assert is_channels_last(seen[0])


@pytest.mark.parametrize("encoder", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_grouped_convolutions_on_a_cpu_run_on_the_default_layout(encoder):
    network = make_network(encoder)
    assert all(param.is_contiguous() for param in network.parameters())
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network.eval()(images())
    assert seen and not any(is_channels_last(x) for x in seen)


def test_module_of_the_user_may_count_on_the_default_layout():
    network = make_network(SeenByEncoder())
    assert network(images()).shape == (4, 4 * 14 * 14)
    assert network.encoder.seen.is_contiguous()


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


def test_module_of_the_user_may_count_on_the_default_layout_of_one_channel(simclr, digits):
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), Viewed(), nn.Linear(4 * 6 * 6, 5))
    model = simclr(encoder=encoder).fit(digits[0])
    features = model.transform(digits[0])
    exported = model.to_torch()(torch.from_numpy(digits[0]))
    torch.testing.assert_close(exported, torch.from_numpy(features))


def test_module_of_the_user_keeps_its_own_layout():
    module = SeenByEncoder().to(memory_format=torch.channels_last)
    encoder = nn.Sequential(module.conv, nn.Flatten())
    assert is_channels_last(make_network(encoder).encoder[0].weight)


@pytest.mark.parametrize(
    "encoder, input_shape",
    [
        (ResNetEncoder(width=0.1), ONE_IMAGE),
        (MLPEncoder(8), (5,)),
        ("mobilenet_v3_small", ONE_IMAGE),
    ],
)
def test_weights_are_a_function_of_the_seed(encoder, input_shape):
    state = torch.get_rng_state()
    one, same, other = (
        make_network(encoder, input_shape, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_width_of_the_features_is_found_unless_given():
    assert make_network(ConvNetEncoder(8)).n_features == 16
    assert make_network(ConvNetEncoder(8), n_features=16).head[0].in_features == 16


def fill_free_memory_with_nan():
    blocks = [torch.full((2**n,), torch.nan) for n in range(4, 19) for _ in range(20)]
    del blocks


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 16])
def test_gradients_in_bfloat16_are_right_on_maps_of_one_pixel(layout, groups):
    for _ in range(5):
        conv = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=groups, bias=False)
        conv = conv.to(memory_format=layout)
        x = torch.randn(32, 16, 1, 1).contiguous(memory_format=layout)
        expected = conv(x)
        with dropping_idle_strides(conv):
            assert torch.equal(conv(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = conv(x)
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
        fill_free_memory_with_nan()
        out.float().square().sum().backward()
        gradient = conv.weight.grad.clone()
        assert gradient.isfinite().all()
        assert gradient[:, :, 1, 1].abs().min() > 0
        gradient[:, :, 1, 1] = 0
        assert not gradient.any()  # the rest of the kernel sees padding only


def test_a_resnet_has_no_idle_strides_when_it_is_trained():
    network = make_network(ResNetEncoder(stem="large", width=0.25))
    with dropping_idle_strides(network):
        network.eval()(images())
    first = [block[0].conv1 for block in (network.encoder.layer3, network.encoder.layer4)]
    assert [conv.stride for conv in first] == [(2, 2), (2, 1)]


def test_strides_are_kept_where_they_count():
    strided = nn.Conv2d(3, 3, 3, stride=2, padding=1)
    network = nn.Sequential(
        nn.Conv2d(3, 3, 3, stride=2, padding=1),  # (8, 4) -> (4, 2)
        strided,  # -> (2, 1)
        nn.Conv2d(3, 3, 3, stride=2, padding=1),  # -> (1, 1)
        nn.Conv2d(3, 3, 1, stride=2, padding=1),  # -> (2, 2)
        strided,  # -> (1, 1)
    )
    x = torch.randn(2, 3, 8, 4)
    expected = network(x)
    with dropping_idle_strides(network):
        network(x)
    assert [module.stride for module in network] == [(2, 2), (2, 2), (2, 1), (2, 2), (2, 2)]
    assert torch.equal(network(x), expected)
    assert not any(module._forward_pre_hooks for module in network)
