"""Shapes and layers of the projection head."""

import pytest
import torch
from torch import nn

from sklearn_simclr.projection import projection_head


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
