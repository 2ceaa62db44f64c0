"""Passes over a trained network."""

import weakref

import numpy as np
import pytest
import torch
from test_training import (
    CPU,
    assert_same_state,
    global_noise,
    identity,
    image_samples,
    make_network,
    make_views,
    run,
    state_of,
    vector_samples,
)
from torch import nn

from sklearn_simclr import _inference
from sklearn_simclr._data import Samples
from sklearn_simclr._inference import discrimination_accuracy, encode, encode_views
from sklearn_simclr._kernels import resize
from sklearn_simclr.augmentation import FeatureCorruption
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder


@pytest.mark.parametrize("samples", [vector_samples(n=300), image_samples(n=300)])
def test_encode_returns_the_features_of_each_row(samples):
    network, _ = run(samples, identity, 1)
    features = encode(network, samples, None, 0, CPU)
    assert features.shape == (300, network.n_features) and features.dtype == torch.float32
    with torch.no_grad():
        for i in (0, 123, 299):
            x = (samples.batch(torch.tensor([i])) - network.mean) / network.scale
            np.testing.assert_allclose(features[i], network.encoder(x)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("samples", [vector_samples(n=300), image_samples(n=300)])
def test_encode_does_not_depend_on_the_other_rows_or_their_order(samples):
    network, _ = run(samples, identity, 1)
    network.train()
    features = encode(network, samples, None, 0, CPU)
    order = np.random.default_rng(0).permutation(300)
    for chosen in (order, order[:1], order[:257]):
        rows = Samples(samples.rows[chosen], *list(vars(samples).values())[1:5])
        np.testing.assert_allclose(encode(network, rows, None, 0, CPU), features[chosen], atol=1e-5)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="others may round otherwise")
def test_vectors_are_rounded_alike_however_many_there_are():
    samples = vector_samples(n=300)
    network = make_network(samples)
    features = encode(network, samples, None, 1, CPU)
    for n in (1, 2, 3, 5, 31, 33, 257):
        few = Samples(samples.rows[:n], *list(vars(samples).values())[1:5])
        np.testing.assert_array_equal(encode(network, few, None, 1, CPU), features[:n])


@pytest.mark.parametrize("output_layer", [0, 1, 2])
def test_encode_returns_the_layer_asked_for(output_layer):
    samples = vector_samples()
    network = make_network(samples).eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(samples.rows))
        for layer in network.head[: {0: 0, 1: 3, 2: 4}[output_layer]]:
            expected = layer(expected)
    features = encode(network, samples, None, output_layer, CPU)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-6)


def test_encode_brings_images_to_the_size_of_the_views():
    samples = image_samples(n=5, side=20)
    network = make_network(samples, nn.Flatten, input_shape=(1, 12, 12))
    features = encode(network, samples, 12, 0, CPU)
    x = resize(samples.batch(torch.arange(5)), 12)
    expected = ((x - network.mean) / network.scale).flatten(1)
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "encoder", "image_size", "sizes"),
    [
        (image_samples(n=300), ConvNetEncoder(4), None, [128, 128, 44]),  # the most
        (image_samples(n=70, side=32), ConvNetEncoder(64), None, [32, 32, 6]),
        (image_samples(n=20, side=4), ConvNetEncoder(64), 64, [8, 8, 4]),
        (image_samples(n=12, side=64), ResNetEncoder(width=2), 64, [8, 4]),  # the least
        (image_samples(n=40, side=64, channels=3), ResNetEncoder(stem="large"), None, [32, 8]),
        (image_samples(n=300), MLPEncoder(4), None, [256, 44]),
        (vector_samples(n=300), None, None, [256, 64]),  # filled up
    ],
    ids=["few values", "more", "image size", "many", "stride", "no convolution", "vectors"],
)
def test_how_many_rows_are_encoded_at_a_time(samples, encoder, image_size, sizes):
    shape = samples.input_shape
    if image_size:
        shape = (shape[0], image_size, image_size)
    network, seen = make_network(samples, encoder, input_shape=shape), []
    network.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert encode(network, samples, image_size, 0, CPU).shape == (len(samples), network.n_features)
    assert seen == sizes


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_evaluation_never_touches_the_network_or_the_global_generator(augmentation):
    samples = vector_samples()
    network, _ = run(samples, identity, 1)
    network.train()
    before, rng = state_of(network), torch.get_rng_state()
    encode(network, samples, None, 0, CPU)
    discrimination_accuracy(network.train(), samples, make_views(augmentation), seed=0)
    assert_same_state(network, before)
    assert all(param.requires_grad for param in network.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("n, block", [(20, 7), (20, 100), (5, 4), (2, 256)])
def test_discrimination_accuracy_equals_brute_force(monkeypatch, n, block):
    monkeypatch.setattr(_inference, "_EVALUATED_ROWS", block)
    samples = vector_samples(n=n)
    network = make_network(samples)
    seen = []

    def watch(batch):
        seen.append((batch, batch + 0.8 * torch.randn_like(batch)))
        return seen[-1][1]

    accuracy = discrimination_accuracy(network, samples, make_views(watch), seed=0)
    n_hits = 0
    for (rows, first), (_, second) in zip(seen[::2], seen[1::2], strict=True):
        assert 2 <= len(rows) <= block
        with torch.no_grad():
            z = network.eval().head(network(torch.cat([first, second]))).double().numpy()
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        for i in range(len(z)):
            nearest = max((k for k in range(len(z)) if k != i), key=lambda k: z[i] @ z[k])
            n_hits += nearest == (i + len(rows)) % len(z)
    assert accuracy == n_hits / (2 * n)
    assert n < 20 or 0 < accuracy < 1
    evaluated = torch.cat([rows for rows, _ in seen[::2]])
    np.testing.assert_array_equal(evaluated.numpy(), samples.rows)


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_discrimination_accuracy_is_a_function_of_the_seed(augmentation):
    samples = vector_samples(n=100)
    network = make_network(samples)
    views = make_views(augmentation)
    first, again, *others = (
        discrimination_accuracy(network, samples, views, seed) for seed in (0, 0, 1, 2, 3)
    )
    assert first == again
    assert any(other != first for other in others)


def test_discrimination_accuracy_of_equal_views_is_one_and_of_a_collapsed_network_chance():
    samples = vector_samples(n=50)
    views = make_views(identity)
    network = make_network(samples, lambda: nn.Linear(5, 8), projection_layers=1)
    assert discrimination_accuracy(network, samples, views, seed=0) == 1.0
    for param in network.encoder.parameters():
        nn.init.zeros_(param)
    assert discrimination_accuracy(network, samples, views, seed=0) <= 0.02


@pytest.mark.parametrize("output_layer", [0, 1])
@pytest.mark.parametrize("n, block", [(20, 7), (20, 100), (5, 4)])
def test_features_of_views_are_those_of_each_block(monkeypatch, n, block, output_layer):
    monkeypatch.setattr(_inference, "_EVALUATED_ROWS", block)
    samples, seen = vector_samples(n=n), []
    network = make_network(samples)

    def watch(batch):
        seen.append(batch + torch.randn_like(batch))
        return seen[-1]

    features = encode_views(network, samples, make_views(watch), output_layer, seed=0)
    for h, views in zip(features, (seen[::2], seen[1::2]), strict=True):
        with torch.no_grad():
            expected = network.represent(torch.cat(views), output_layer)
        assert h.dtype == np.float32
        np.testing.assert_allclose(h, expected.numpy(), atol=1e-5)


def test_features_of_views_are_held_once(monkeypatch):
    monkeypatch.setattr(_inference, "_EVALUATED_ROWS", 4)
    samples, blocks, alive = vector_samples(n=40), [], []
    network = make_network(samples)
    represent = network.represent

    def watched(x, output_layer):
        alive.append(sum(block() is not None for block in blocks))
        h = represent(x, output_layer)
        blocks.append(weakref.ref(h))
        return h

    monkeypatch.setattr(network, "represent", watched)
    encode_views(network, samples, make_views(identity), 0, seed=0)
    assert len(alive) == 10 and max(alive) <= 1
