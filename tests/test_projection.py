"""Shapes and layers of the projection head."""

import pytest
import torch
from torch import nn

from sklearn_simclr.projection import first_layers, projection_head


@pytest.mark.parametrize(
    "n_layers, layers",
    [
        (0, []),
        (1, [nn.Linear]),
        (2, [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]),
        (3, [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]),
    ],
)
def test_layers(n_layers, layers):
    head = projection_head(12, 5, n_layers)
    assert [type(layer) for layer in head] == layers
    assert head(torch.randn(4, 12)).shape == (4, 5 if n_layers else 12)


def test_no_layer_is_the_identity():
    h = torch.randn(4, 12)
    assert torch.equal(projection_head(12, 5, 0)(h), h)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_hidden_layers_are_as_wide_as_h_and_linear_layers_have_no_bias(n_layers):
    linear = [m for m in projection_head(12, 5, n_layers) if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [12] * (n_layers - 1) + [5]
    assert all(m.in_features == 12 and m.bias is None for m in linear)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_first_layers_end_in_a_relu_unless_they_are_all(n_layers):
    head = projection_head(12, 5, n_layers).eval()
    h = torch.randn(4, 12)
    assert torch.equal(first_layers(head, 0)(h), h)
    assert torch.equal(first_layers(head, n_layers)(h), head(h))
    for n in range(1, n_layers):
        layers = first_layers(head, n)
        assert len(layers) == 3 * n and isinstance(layers[-1], nn.ReLU)
        assert layers[0] is head[0]  # the same weights
        assert layers(h).shape == (4, 12)
