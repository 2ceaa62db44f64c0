"""Parameters of views on their way to a GPU, tried on the CPU."""

from typing import NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves

from sklearn_simclr import _kernels, _views
from sklearn_simclr._placement import map_leaves, packed, unpacked
from sklearn_simclr._view_parts import ViewPart
from sklearn_simclr._views import Views, two_views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    Compose,
    FeatureCorruption,
    SimCLRAugmentation,
)

EVERY_PART = Compose([(part.__name__, part()) for part in ViewPart.__subclasses__()])
OURS = pytest.mark.parametrize(
    ("augmentation", "shape"),
    [
        (SimCLRAugmentation(), (9, 3, 32, 32)),
        (SimCLRAugmentation(size=40), (9, 3, 52, 44)),
        (AffineAugmentation(), (9, 1, 8, 8)),
        (FeatureCorruption(), (9, 20)),
        (EVERY_PART, (9, 3, 40, 40)),
        (EVERY_PART, (9, 1, 40, 24)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Pair(NamedTuple):
    first: torch.Tensor
    name: str


def test_leaves_of_named_tuples_and_lists():
    pair, single = Pair(torch.tensor(3), "x"), (torch.tensor(4),)
    doubled = map_leaves(lambda values: 2 * values, [pair, single])
    assert doubled == [Pair(torch.tensor(6), "x"), (torch.tensor(8),)]


@OURS
def test_parameters_come_out_of_one_transfer_as_they_went_in(augmentation, shape):
    params = augmentation.make_params(shape, seeded())
    data = packed(params)
    assert data.dtype == torch.uint8 and data.ndim == 1
    for before, after in zip(
        tree_leaves(params), tree_leaves(unpacked(data, like=params)), strict=True
    ):
        assert before.dtype == after.dtype and torch.equal(before, after)


def test_what_is_no_tensor_stays():
    params = {"name": "text", "pair": (1, torch.tensor(2)), "none": torch.zeros(0, 3)}
    out = unpacked(packed(params), like=params)
    assert out["name"] == "text" and out["pair"] == (1, 2) and out["none"].shape == (0, 3)


@OURS
def test_views_without_counting_the_chosen_are_the_same(augmentation, shape, monkeypatch):
    batch = torch.rand(shape, generator=seeded(1))
    views = two_views(augmentation, batch, seeded())
    monkeypatch.setattr(_kernels, "_is_on_cpu", lambda images: False)  # as on a GPU
    for one, other in zip(views, two_views(augmentation, batch, seeded()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)


@OURS
def test_recorded_views_draw_as_others_do(augmentation, shape, monkeypatch):
    views = Views(augmentation, None, False)
    batches = list(torch.rand((4, *shape), generator=seeded(1)))
    expected = list(views.pairs(batches, seeded()))
    monkeypatch.setattr(_views, "beside", lambda make, items, device: map(make, items))
    pairs = views.replayed_pairs(len(batches), torch.device("cpu"))
    for one, other in zip(pairs(batches, seeded()), expected, strict=True):
        assert torch.equal(one, other)


def test_parameters_of_other_views_stay_where_they_were_drawn():
    class Watching:
        devices = ()

        def make_params(self, shape, generator):
            return {"by": torch.rand(shape[0], 1, generator=generator)}

        def apply(self, batch, params):
            self.devices += (params["by"].device.type,)
            return batch

    watching = Watching()
    two_views(watching, torch.empty(4, 3, device="meta"), seeded())
    assert watching.devices == ("cpu", "cpu")
