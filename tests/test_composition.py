"""The parts of views against torchvision's functional operations, and their composition."""

import copy
import math
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy import ndimage, stats
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from sklearn_simclr._views import Views, two_views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    ColorDrop,
    ColorJitter,
    Compose,
    Crop,
    Cutout,
    FeatureCorruption,
    Flip,
    GaussianBlur,
    GaussianNoise,
    QuarterTurns,
    Rotation,
    SimCLRAugmentation,
    Sobel,
    Solarize,
    resolve_augmentation,
)

TV_COLOR = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
BILINEAR = tv.InterpolationMode.BILINEAR
PARTS = (
    Crop,
    Flip,
    QuarterTurns,
    Rotation,
    Cutout,
    ColorJitter,
    ColorDrop,
    GaussianNoise,
    GaussianBlur,
    Sobel,
    Solarize,
)
each_part = pytest.mark.parametrize("kind", PARTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed))


def assert_close(actual, expected, atol=2e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def everything():
    """All parts in one composition."""
    return Compose([(kind.__name__.lower(), kind()) for kind in PARTS])


def simclr_parts(size=None):
    """The parts of SimCLRAugmentation, with its settings."""
    return Compose(
        [
            ("crop", Crop(size=size)),
            ("flip", Flip()),
            ("jitter", ColorJitter(strength=1.0)),
            ("drop", ColorDrop()),
            ("blur", GaussianBlur()),
        ]
    )


# ------------------------------------------------------------------------------------------------
# Each part against an oracle


def crop(image, p):
    size = list(image.shape[-2:])
    box = (int(p[name]) for name in ("top", "left", "height", "width"))
    return tv.resized_crop(image, *box, size, antialias=True)


def rotate(image, p):
    return tv.rotate(image, -float(p["angle"]), interpolation=BILINEAR)  # it counts the other way


def erase(image, p):
    side = round(0.5 * min(image.shape[-2:]))
    top, left = max(0, int(p["top"])), max(0, int(p["left"]))
    bottom, right = int(p["top"]) + side, int(p["left"]) + side
    fill = torch.tensor(0.3)
    return tv.erase(image, top, left, bottom - top, right - left, fill)


def jitter(image, p):
    for number in p["order"].tolist():
        if len(image) == 3:
            image = TV_COLOR[number](image, float(p["factors"][number]))
        elif number == 0:
            image = (image * p["factors"][0]).clamp(0, 1)
        elif number == 1:
            factor = p["factors"][1]
            image = (image * factor + image.mean() * (1 - factor)).clamp(0, 1)
    return image


def drop(image, p):
    return tv.rgb_to_grayscale(image, num_output_channels=3) if len(image) == 3 else image


def add_noise(image, p):
    share = (p["bits"].double().numpy() + 2**15 + 0.5) / 2**16
    noisy = image.double().numpy() + stats.norm.ppf(share, scale=0.1)
    return torch.tensor(noisy.clip(0, 1), dtype=torch.float32)


def blur(image, p):
    kernel = 2 * max(1, max(image.shape[-2:]) // 20) + 1
    return tv.gaussian_blur(image, [kernel] * 2, [float(p["sigma"])] * 2)


def edges(image, p):
    def magnitude(channel):
        down, across = (ndimage.sobel(channel, axis=axis, mode="nearest") for axis in (0, 1))
        return np.sqrt(down**2 + across**2) / 4

    magnitudes = np.stack([magnitude(channel) for channel in image.double().numpy()])
    return torch.tensor(magnitudes.clip(max=1), dtype=torch.float32)


ORACLES = {
    "crop": (Crop(p=0.6), crop),
    "narrow crop": (Crop(scale=(0.1, 0.3), ratio=(0.2, 0.5)), crop),
    "flip": (Flip(), lambda image, p: tv.horizontal_flip(image)),
    "rotation": (Rotation(degrees=180, p=0.7), rotate),
    "cutout": (Cutout(length=0.5, fill=0.3), erase),
    "color jitter": (ColorJitter(strength=1.0), jitter),
    "color drop": (ColorDrop(p=0.5), drop),
    "gaussian noise": (GaussianNoise(std=0.1), add_noise),
    "gaussian blur": (GaussianBlur(), blur),
    "sobel": (Sobel(), edges),
    "solarize": (Solarize(threshold=0.4, p=0.6), lambda image, p: tv.solarize(image, 0.4)),
}


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(40, 40), (44, 61), (24, 16)])
@pytest.mark.parametrize("part, oracle", ORACLES.values(), ids=ORACLES)
def test_parts_equal_their_oracles_on_the_same_parameters(part, oracle, shape, channels):
    n = 40
    images = torch.zeros(n, channels, *shape)
    images[..., 2:-2, 2:-2] = rand(n, channels, shape[0] - 4, shape[1] - 4)  # rotations agree there
    params = part.make_params(images.shape, seeded(1))
    views = part.apply(images, params)
    chosen = params.get("chosen", torch.ones(n, dtype=torch.bool))
    assert 0 < chosen.sum()
    for i in range(n):
        own = {name: value[i] for name, value in params.items()}
        expected = oracle(images[i], own) if chosen[i] else images[i]
        assert_close(views[i], expected, atol=5e-5 if chosen[i] else 0)


@pytest.mark.parametrize("shape", [(16, 16), (9, 9), (12, 20), (20, 12)])
def test_quarter_turns_equal_torchvision(shape):
    images = rand(60, 3, *shape)
    params = QuarterTurns().make_params(images.shape, seeded())
    views = QuarterTurns().apply(images, params)
    is_square = shape[0] == shape[1]
    assert set(params["turns"].tolist()) == ({0, 1, 2, 3} if is_square else {0, 2})
    for image, view, turns in zip(images, views, params["turns"].tolist(), strict=True):
        assert torch.equal(view, tv.rotate(image, 90 * turns))


def test_sobel_by_hand():
    image = rand(4, 5).double()
    kernel = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    expected = torch.zeros(4, 5).double()
    for row in range(4):
        for column in range(5):
            across = down = 0.0
            for i in range(3):
                for j in range(3):
                    y, x = min(max(row + i - 1, 0), 3), min(max(column + j - 1, 0), 4)
                    across += kernel[i][j] * image[y, x].item()
                    down += kernel[j][i] * image[y, x].item()
            expected[row, column] = min(1, math.sqrt(across**2 + down**2) / 4)
    assert_close(Sobel(p=1)(image[None, None].float(), seeded())[0, 0], expected.float(), 1e-6)


def test_sobel_of_flat_images_is_black_and_of_full_edges_white():
    assert not Sobel(p=1)(torch.full((1, 3, 6, 7), 0.7), seeded()).any()
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    view = Sobel(p=1)(torch.cat([step, step.mT, 0.5 * step]), seeded())
    assert_close(view.amax((1, 2, 3)), torch.tensor([1, 1, 0.5]))
    assert (view[0, 0, :, 3:5] == 1).all() and not view[0, 0, :, :3].any()


def test_solarize_inverts_from_the_threshold_on():
    image = torch.tensor([0.0, 0.5, 0.51, 1.0]).view(1, 1, 1, 4)
    for threshold, expected in {
        0: [1, 0.5, 0.49, 0],
        0.51: [0, 0.5, 0.49, 0],
        1: [0, 0.5, 0.51, 0],
    }.items():
        view = Solarize(threshold=threshold, p=1)(image, seeded())
        assert_close(view.flatten(), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("shape", [(2, 2), (8, 8), (20, 32), (1, 9)])
def test_small_images_are_blurred_if_asked(shape):
    images = rand(8, 3, *shape)
    views = GaussianBlur(sigma=(1, 2), p=1)(images, seeded())
    assert views.isfinite().all()
    assert torch.equal(views, images) is (min(shape) == 1)  # a mirror needs two pixels


# ------------------------------------------------------------------------------------------------
# How the parts draw


@pytest.mark.parametrize("p", [0.0, 0.2, 0.8, 1.0])
@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind not in (Crop, QuarterTurns)])
def test_probabilities(kind, p):
    n = 4000
    chosen = kind(p=p).make_params((n, 3, 8, 8), seeded())["chosen"]
    assert chosen.double().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_probabilities_of_crops_and_quarter_turns(p):
    n = 4000
    margin = 4 * math.sqrt(p * (1 - p) / n)
    params = Crop(scale=(0.1, 0.5), p=p).make_params((n, 3, 50, 70), seeded())
    whole = {"top": 0, "left": 0, "height": 50, "width": 70}
    is_whole = torch.stack([params[name] == value for name, value in whole.items()]).all(0)
    assert is_whole.double().mean().item() == pytest.approx(1 - p, abs=margin)
    turns = QuarterTurns(p=p).make_params((n, 3, 8, 8), seeded())["turns"]
    shares = torch.bincount(turns, minlength=4) / n
    assert_close(shares, torch.tensor([1 - p, p / 3, p / 3, p / 3]), atol=0.03)
    assert shares[0].item() == pytest.approx(1 - p, abs=margin + 1e-6)


@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.2, 0.5), (1.0, 3.0), (2.0, 2.0)])
def test_crops_are_distributed_as_torchvisions(ratio):
    n, shape, scale = 3000, (48, 80), (0.1, 0.4)
    params = Crop(scale=scale, ratio=ratio).make_params((n, 3, *shape), seeded())
    image = torch.zeros(3, *shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(n)]
    theirs = torch.tensor(boxes).double()
    for column, name in enumerate(("top", "left", "height", "width")):
        ours = params[name].double()
        error = math.sqrt((ours.var() + theirs[:, column].var()) / n)
        assert abs(ours.mean() - theirs[:, column].mean()) < 4 * error
        assert ours.std().item() == pytest.approx(theirs[:, column].std().item(), rel=0.08)


@pytest.mark.parametrize("ratio", [(0.3, 0.4), (3.0, 5.0)])
@pytest.mark.parametrize("shape", [(40, 40), (10, 90), (90, 10)])
def test_a_crop_that_fits_nowhere_is_torchvisions_central_one(shape, ratio):
    expected = RandomResizedCrop.get_params(torch.zeros(3, *shape), [1.0, 1.0], list(ratio))
    params = Crop(scale=(1.0, 1.0), ratio=ratio).make_params((20, 3, *shape), seeded())
    for name, value in zip(("top", "left", "height", "width"), expected, strict=True):
        assert (params[name] == value).all()


@pytest.mark.parametrize("ratio", [(0.01, 0.02), (50, 100)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_crops_of_any_ratio_have_a_pixel_at_least(shape, ratio):
    images = rand(20, 3, *shape)
    views = Crop(ratio=ratio)(images, seeded())
    assert views.shape == images.shape and views.isfinite().all()


def test_drawn_ranges():
    n = 4000
    drawn = {
        (-30, 30): Rotation(degrees=30).make_params((n, 3, 8, 8), seeded())["angle"],
        (0.5, 3): GaussianBlur(sigma=(0.5, 3)).make_params((n, 3, 8, 8), seeded())["sigma"],
    }
    for (low, high), values in drawn.items():
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=2 * margin)
        assert len(values.unique()) > 3900


def test_the_centres_of_cutouts_are_uniform_over_the_image():
    n, height, width = 20000, 10, 16
    params = Cutout(length=0.4, p=1).make_params((n, 1, height, width), seeded())
    for start, side in (("top", height), ("left", width)):
        counts = torch.bincount(params[start] + 2, minlength=side)  # the square has 4 pixels a side
        assert len(counts) == side
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    hidden = Cutout(length=0.4, fill=1, p=1).apply(torch.zeros(n, 1, height, width), params)
    assert hidden.sum((1, 2, 3)).max() == 16  # whole squares; those at the border are cut
    assert hidden.sum((1, 2, 3)).min() == 4


@pytest.mark.parametrize("length, side", [(0.01, 1), (0.24, 2), (0.5, 5), (1.0, 10)])
def test_length_of_a_cutout_is_a_share_of_the_shorter_side(length, side):
    views = Cutout(length=length, fill=1, p=1)(torch.zeros(500, 2, 10, 30), seeded())
    assert views.sum((1, 2, 3)).max() == 2 * side**2


def test_noise_is_normal_and_independent():
    shape = (50, 3, 20, 21)
    part = GaussianNoise(std=0.05, p=1)
    views = part(torch.full(shape, 0.5), seeded())
    noise = (views - 0.5).double()
    assert stats.kstest(noise.flatten().numpy() / 0.05, "norm").pvalue > 1e-3
    assert noise.std().item() == pytest.approx(0.05, rel=0.01)
    rows = noise.reshape(150, -1)
    correlations = torch.corrcoef(rows) - torch.eye(150)
    assert correlations.abs().max() < 6 / math.sqrt(420)
    for shift in (1, 2, 3, 4):  # neighbours come out of one word of random bits
        flat = noise.flatten()
        correlation = torch.corrcoef(torch.stack([flat, flat.roll(shift)]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(len(flat))


def test_noise_is_clipped():
    images = rand(20, 3, 10, 10)
    views = GaussianNoise(std=2.0, p=1)(images, seeded())
    assert views.min() == 0 and views.max() == 1
    assert torch.equal(GaussianNoise(std=0, p=1)(images, seeded()), images)


# ------------------------------------------------------------------------------------------------
# What all parts, and compositions, have in common

AUGMENTATIONS = {kind.__name__: kind(p=0.8) for kind in PARTS} | {"Compose": everything()}
each_augmentation = pytest.mark.parametrize(
    "augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS
)


@pytest.mark.parametrize("shape", [(20, 20), (40, 33), (1, 1), (3, 40)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@each_augmentation
def test_views_of_any_number_of_channels_and_any_shape(augmentation, channels, shape):
    images = rand(24, channels, *shape)
    views = augmentation(images, seeded())
    assert views.shape == images.shape and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1 + 1e-6


@each_augmentation
def test_the_batch_is_never_modified(augmentation):
    images = rand(16, 3, 12, 12)
    before = images.clone()
    augmentation(images, seeded())
    assert torch.equal(images, before)


@each_augmentation
def test_the_generator_alone_decides_on_the_views(augmentation):
    images, state = rand(32, 3, 20, 20), torch.get_rng_state()
    views = augmentation(images, seeded(1))
    assert torch.equal(views, augmentation(images, seeded(1)))
    assert not torch.equal(views, augmentation(images, seeded(2)))
    params = augmentation.make_params(images.shape, seeded(1))
    for _ in range(2):  # nothing is drawn, and no parameter changed, when they are applied
        assert torch.equal(augmentation.apply(images, params), views)
    assert torch.equal(torch.get_rng_state(), state)


@each_augmentation
def test_views_of_channels_last_images_are_the_same(augmentation):
    images = rand(16, 3, 20, 18)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert_close(augmentation(channels_last, seeded()), augmentation(images, seeded()), atol=1e-5)


# All views of these are one of a few: the image as it is, or not.
FEW_VIEWS = {"Flip": 2, "QuarterTurns": 4, "ColorDrop": 2, "Sobel": 2, "Solarize": 2}


@each_augmentation
def test_equal_samples_get_views_of_their_own(augmentation):
    images = rand(1, 3, 24, 24).expand(32, -1, -1, -1)
    first, second = two_views(augmentation, images, seeded())
    n_views = len(torch.cat([first, second]).flatten(1).unique(dim=0))
    name = type(augmentation).__name__
    if name in FEW_VIEWS:
        assert n_views == FEW_VIEWS[name]
    else:
        assert n_views > 64 * 0.7  # some stay as they are
    assert not torch.equal(first, second)


@each_augmentation
def test_vectors_are_refused(augmentation):
    with pytest.raises(
        ValueError, match=r"(?s)augmentation=.* does not suit X, which holds vectors; "
    ):
        resolve_augmentation(augmentation, None, None)


def test_a_composition_is_for_images_whatever_its_steps():
    with pytest.raises(ValueError, match="not suit X, which holds vectors"):
        resolve_augmentation(Compose([("shift", Shift())]), None, None)


@each_part
def test_parts_are_parameter_objects(kind):
    part = kind()
    assert repr(part) == f"{kind.__name__}()"
    assert "p" in part.get_params()
    assert clone(part).get_params() == part.get_params()
    for name, value in part.get_params().items():
        assert getattr(kind(**{name: value}), name) is value
    assert resolve_augmentation(part, (8, 8, 3), None).get_params() == part.get_params()


@pytest.mark.parametrize(
    "kind, name, value",
    [
        *((kind, "p", value) for kind in PARTS for value in (-0.1, 1.1, math.nan, None, "often")),
        (Crop, "scale", (0, 1)),
        (Crop, "scale", (0.5, 1.5)),
        (Crop, "scale", 0.5),
        (Crop, "ratio", (0, 1)),
        (Crop, "ratio", (2, 1)),
        (Crop, "ratio", (1, math.inf)),
        (Crop, "ratio", None),
        (Crop, "size", 0),
        (Crop, "size", 24.0),
        (Rotation, "degrees", -1),
        (Rotation, "degrees", 181),
        (Cutout, "length", 0),
        (Cutout, "length", 1.1),
        (Cutout, "fill", -0.1),
        (Cutout, "fill", 128),
        (ColorJitter, "strength", -1),
        (ColorJitter, "strength", math.inf),
        (GaussianNoise, "std", -0.1),
        (GaussianNoise, "std", math.inf),
        (GaussianBlur, "sigma", (0, 1)),
        (GaussianBlur, "sigma", (2, 1)),
        (GaussianBlur, "sigma", 1.0),
        (GaussianBlur, "sigma", (1, math.inf)),
        (Solarize, "threshold", -0.1),
        (Solarize, "threshold", 128),
    ],
)
def test_options_out_of_range_are_refused_with_name_and_value(kind, name, value):
    bad = kind(**{name: value})
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__}") as error:
        resolve_augmentation(bad, (8, 8, 3), None)
    assert repr(value) in str(error.value)
    message = f"In step 'second' of Compose: The '{name}' parameter of {kind.__name__}"
    with pytest.raises(ValueError, match=message):
        resolve_augmentation(Compose([("first", Flip()), ("second", bad)]), (8, 8, 3), None)


# ------------------------------------------------------------------------------------------------
# Compositions


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape, size", [((40, 56), None), ((30, 50), 48)])
def test_the_parts_of_simclr_compose_to_its_views(channels, shape, size):
    images = rand(48, channels, *shape)
    whole = SimCLRAugmentation(color_strength=1.0, size=size)
    drawn = whole.make_params(images.shape, seeded(1))
    params = {
        "crop": {name: drawn[name] for name in ("top", "left", "height", "width")},
        "flip": {"chosen": drawn["flip"]},
        "jitter": {"chosen": drawn["jitter"]} | {n: drawn[n] for n in ("order", "factors")},
        "drop": {"chosen": drawn["grayscale"]},
        "blur": {"chosen": drawn["blur"], "sigma": drawn["sigma"]},
    }
    composed = simclr_parts(size)
    assert_close(composed.apply(images, params), whole.apply(images, drawn), atol=1e-5)
    own = composed.make_params(images.shape, seeded(1))
    assert {name: set(values) for name, values in own.items()} == {
        name: set(values) for name, values in params.items()
    }


def test_steps_follow_one_another_in_their_order():
    images = rand(8, 3, 16, 16)
    solarize, edges = Solarize(p=1), Sobel(p=1)
    there = Compose([("a", solarize), ("b", edges)])(images, seeded())
    back = Compose([("b", edges), ("a", solarize)])(images, seeded())
    assert torch.equal(there, edges(solarize(images, seeded()), seeded()))
    assert torch.equal(back, solarize(edges(images, seeded()), seeded()))
    assert not torch.equal(there, back)


def test_steps_draw_one_after_the_other_for_the_shape_that_reaches_them():
    images = rand(8, 3, 20, 30)
    steps = [Rotation(), Crop(size=12), QuarterTurns(), GaussianNoise(), Crop(size=9), Cutout()]
    composed = Compose([(f"step{number}", step) for number, step in enumerate(steps)])
    expected, generator = images, seeded()
    for step in steps:
        expected = step(expected, generator)
    assert torch.equal(composed(images, seeded()), expected)
    params = composed.make_params(images.shape, seeded())
    assert params["step3"]["bits"].shape == (8, 3, 12, 12)
    assert set(params["step2"]["turns"].tolist()) - {0, 2}  # they are square by then


@pytest.mark.parametrize(
    "inner", [SimCLRAugmentation(size=10), AffineAugmentation(), simclr_parts(10)]
)
def test_whole_augmentations_and_compositions_are_steps(inner):
    images = rand(8, 3, 16, 16)
    composed = Compose([("inner", inner), ("edges", Sobel(p=1))])
    generator = seeded()
    expected = Sobel(p=1)(inner(images, generator), generator)
    assert torch.equal(composed(images, seeded()), expected)


def test_a_composition_within_a_composition_is_as_its_steps_alone():
    images = rand(6, 3, 20, 20)
    inner = [("small", Crop(size=12)), ("again", Crop())]
    nested = Compose([("inner", Compose(inner)), ("noise", GaussianNoise(p=1))])
    flat = Compose([*inner, ("noise", GaussianNoise(p=1))])
    assert torch.equal(nested(images, seeded()), flat(images, seeded()))


class Shift(BaseEstimator):
    """An augmentation of somebody else's, with only what it needs."""

    def __init__(self, by=0.1):
        self.by = by

    def __call__(self, batch, generator):
        return self.apply(batch, self.make_params(batch.shape, generator))

    def make_params(self, shape, generator):
        return {"shift": self.by * torch.rand(shape[0], generator=generator)}

    def apply(self, batch, params):
        return batch + params["shift"].view(-1, 1, 1, 1)


def test_an_augmentation_of_ones_own_is_a_step():
    composed = Compose([("flip", Flip()), ("shift", Shift())])
    resolved = resolve_augmentation(composed, (8, 8, 1), None)
    assert resolved.set_params(shift__by=0.5).steps[1][1].by == 0.5
    assert resolved(rand(4, 1, 8, 8), seeded()).shape == (4, 1, 8, 8)


# Size of the views


def test_a_composition_has_the_size_of_its_last_step_that_has_one():
    composed = Compose([("a", Crop(size=20)), ("b", Crop(size=9)), ("c", Flip())])
    assert composed.size == 9
    composed.size = 7
    assert [step.get_params().get("size") for _, step in composed.steps] == [20, 7, None]
    assert composed(rand(2, 3, 30, 25), seeded()).shape == (2, 3, 7, 7)
    nested = Compose([("inner", composed), ("flip", Flip())])
    nested.size = 6
    assert (nested.size, composed.steps[1][1].size) == (6, 6)
    without = Compose([("flip", Flip()), ("inner", Compose([("sobel", Sobel())]))])
    assert not hasattr(without, "size")
    with pytest.raises(AttributeError, match=r"(?s)No step of Compose.* has a size"):
        without.size = 3


@pytest.mark.parametrize(
    "steps, own_size",
    [
        ([("crop", Crop()), ("drop", ColorDrop())], None),
        ([("turn", QuarterTurns(p=1)), ("crop", Crop())], None),
        ([("simclr", SimCLRAugmentation()), ("sobel", Sobel())], None),
        ([("first", Crop(size=30)), ("inner", Compose([("crop", Crop())]))], None),
        ([("crop", Crop(size=10)), ("drop", ColorDrop())], 10),
        ([("drop", ColorDrop()), ("affine", AffineAugmentation())], None),
        ([("turn", QuarterTurns())], None),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The augmentation .* skips")
def test_image_size_is_that_of_the_views(steps, own_size):
    composed = Compose(steps)
    resolved = resolve_augmentation(composed, (24, 32, 3), 12)
    for view in Views(resolved, 12, False)(rand(4, 3, 24, 32), seeded()):
        assert view.shape == (4, 3, own_size or 12, own_size or 12)
    assert clone(composed).get_params().keys() == composed.get_params().keys()
    assert getattr(composed, "size", None) == own_size  # a copy was changed
    unsized = resolve_augmentation(composed, (24, 32, 3), None)
    for view in Views(unsized, None, False)(rand(4, 3, 24, 32), seeded()):
        assert view.shape == (4, 3, *((own_size, own_size) if own_size else view.shape[2:]))


def test_an_augmentation_without_a_size_gets_none():
    for augmentation in (AffineAugmentation(), Flip(), Compose([("flip", Flip())])):
        assert not hasattr(resolve_augmentation(augmentation, (8, 8, 1), None), "size")
    assert not hasattr(resolve_augmentation("auto", None, None), "size")


# Parameters by name


def test_parameters_are_reached_by_the_names_of_the_steps():
    composed = simclr_parts()
    params = composed.get_params()
    assert params["jitter"] is composed.steps[2][1] and params["jitter__strength"] == 1.0
    assert list(composed.get_params(deep=False)) == ["steps"]
    edges = Sobel()
    assert composed.set_params(jitter__strength=0.25, crop__scale=(0.5, 1), blur=edges) is composed
    assert composed.get_params()["jitter__strength"] == 0.25
    assert composed.steps[0][1].scale == (0.5, 1) and composed.steps[4] == ("blur", edges)
    composed.set_params(steps=[("flip", Flip())], flip__p=0.1)
    assert repr(composed) == "Compose(steps=[('flip', Flip(p=0.1))])"
    nested = Compose([("outer", Compose([("flip", Flip())]))]).set_params(outer__flip__p=0.3)
    assert nested.get_params()["outer__flip__p"] == 0.3
    with pytest.raises(ValueError, match="Invalid parameter 'blurr'"):
        composed.set_params(blurr__p=1)
    with pytest.raises(ValueError, match="Invalid parameter 'q'"):
        composed.set_params(flip__q=1)


def test_clones_share_nothing():
    composed = everything()
    other = clone(composed).set_params(flip__p=0.123)
    assert composed.get_params()["flip__p"] == 0.5
    assert repr(clone(composed)) == repr(composed) != repr(other)
    resolved = resolve_augmentation(composed, (8, 8, 3), 5)
    assert resolved.size == 5 and composed.size is None


def test_it_has_a_readable_repr_and_a_diagram(simclr):
    lines = repr(simclr_parts()).split("\n")
    assert " ".join(line.strip() for line in lines) == (
        "Compose(steps=[('crop', Crop()), ('flip', Flip()), "
        "('jitter', ColorJitter(strength=1.0)), ('drop', ColorDrop()), ('blur', GaussianBlur())])"
    )
    assert "ColorJitter" in simclr(augmentation=simclr_parts())._repr_html_()


@pytest.mark.parametrize(
    "way", [clone, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))]
)
def test_copies_are_equal_and_have_equal_hashes(way):
    composed = everything()
    travelled = way(composed)
    images = rand(6, 3, 16, 16)
    assert torch.equal(travelled(images, seeded()), composed(images, seeded()))
    assert joblib.hash(travelled) == joblib.hash(composed) == joblib.hash(everything())
    assert joblib.hash(composed.set_params(flip__p=0.4)) != joblib.hash(travelled)


# What is refused


@pytest.mark.parametrize(
    "steps, match",
    [
        ((("flip", Flip()),), "'steps' parameter of Compose must be an instance of 'list'"),
        (None, "'steps' parameter of Compose must be an instance of 'list'.*None"),
        ([], r"'steps' parameter of Compose.*at least one.*\[\]"),
        ([Flip()], r"\('flip', Flip\(\)\)\. Got Flip\(\)"),
        ([("flip", Flip(), 1)], "Got .*'flip', Flip.*1"),
        ([("flip", Flip)], "Got .*'flip', <class"),
        ([("flip", "passthrough")], "Got .*'flip', 'passthrough'"),
        ([("noise", torch.rand_like)], "Got .*'noise', <"),
        ([(1, Flip())], r"Got \(1, Flip\(\)\)"),
        ([("a", Flip()), ("a", Crop())], r"not unique: \['a', 'a'\]"),
        ([("a__b", Flip())], r"must not contain __: got \['a__b'\]"),
        ([("steps", Flip())], r"conflict with constructor arguments: \['steps'\]"),
        (
            [("a", Compose([("b", Flip(p=2))]))],
            "In step 'a' of Compose: In step 'b' of Compose: .*2",
        ),
        ([("a", Compose([]))], "In step 'a' of Compose: The 'steps'"),
    ],
    ids=str,
)
def test_steps_that_do_not_compose_are_refused(simclr, photos, steps, match):
    with pytest.raises(ValueError, match=match):
        simclr(augmentation=Compose(steps)).fit(photos[0])


def test_corruption_of_vectors_is_refused_as_a_step(simclr, photos, vectors):
    for inner in (FeatureCorruption(), Compose([("scarf", FeatureCorruption())])):
        model = simclr(augmentation=Compose([("flip", Flip()), ("scarf", inner)]))
        with pytest.raises(
            ValueError, match=r"(?s)FeatureCorruption.*not suit X, which holds images"
        ):
            model.fit(photos[0])
        with pytest.raises(ValueError, match=r"(?s)not suit X, which holds vectors"):
            model.fit(vectors)


# What is skipped


@pytest.mark.parametrize(
    "augmentation, image_shape, skipped",
    [
        (ColorDrop(), (8, 8, 1), "colour drop"),
        (ColorJitter(), (8, 8, 4), "saturation and hue"),
        (QuarterTurns(), (8, 9, 3), "rotations by 90 and 270 degrees"),
        (SimCLRAugmentation(), (8, 8, 2), "saturation and hue; grayscale"),
        (SimCLRAugmentation(grayscale_p=0), (8, 8, 1), "saturation and hue"),
        (SimCLRAugmentation(color_p=0), (8, 8, 1), "grayscale"),
        ("simclr", (8, 8, 1), "saturation and hue; grayscale"),
        (
            Compose([("jitter", ColorJitter()), ("in", Compose([("drop", ColorDrop())]))]),
            (8, 8, 5),
            "step 'jitter': saturation and hue; step 'in': step 'drop': colour drop",
        ),
        (
            Compose([("a", QuarterTurns()), ("crop", Crop(size=6)), ("b", QuarterTurns())]),
            (8, 9, 3),
            "step 'a': rotations by 90 and 270 degrees",
        ),
    ],
    ids=str,
)
def test_what_does_not_apply_to_the_images_is_named_once(augmentation, image_shape, skipped):
    with pytest.warns(UserWarning, match="^The augmentation .* skips") as caught:
        resolve_augmentation(augmentation, image_shape, None)
    assert len(caught) == 1
    assert str(caught[0].message).endswith(f"images of (h, w, c) = {image_shape}: {skipped}.")


def test_a_step_before_the_crop_meets_the_images_as_they_are():
    composed = Compose([("turn", QuarterTurns()), ("crop", Crop())])
    with pytest.warns(UserWarning, match="step 'turn': rotations by 90 and 270 degrees"):
        resolve_augmentation(composed, (8, 9, 3), 12)


@pytest.mark.parametrize(
    "augmentation, image_shape, view_size",
    [
        ("auto", (8, 8, 1), None),
        ("auto", (8, 8, 2), None),
        ("auto", (8, 9, 4), None),
        ("auto", None, None),
        ("simclr", (8, 8, 3), None),
        (everything(), (8, 8, 3), None),
        (AffineAugmentation(), (8, 9, 4), None),
        (ColorDrop(p=0), (8, 8, 1), None),
        (ColorJitter(p=0), (8, 8, 1), None),
        (ColorJitter(strength=0), (8, 8, 1), None),
        (QuarterTurns(p=0), (8, 9, 1), None),
        (QuarterTurns(), (8, 9, 1), 12),  # the images are resized before
        (Compose([("crop", Crop()), ("turn", QuarterTurns())]), (8, 9, 1), 12),
        (Compose([("shift", Shift())]), (8, 9, 1), None),
        (lambda batch: batch, (8, 8, 1), None),
    ],
    ids=str,
)
def test_nothing_is_said_where_nothing_is_skipped(augmentation, image_shape, view_size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_augmentation(augmentation, image_shape, view_size)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_note_points_at_the_call_of_fit(simclr, digits, method):
    model = simclr(augmentation=Compose([("affine", AffineAugmentation()), ("drop", ColorDrop())]))
    with pytest.warns(UserWarning, match=r"skips .*\(8, 8, 1\): step 'drop': colour drop") as w:
        getattr(model, method)(digits[0])
    assert len(w) == 1
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score(digits[0])


# ------------------------------------------------------------------------------------------------
# In a transformer


def test_a_composition_trains(simclr, photos):
    images, _ = photos
    model = simclr(augmentation=everything(), max_epochs=1).fit(images)
    assert_array_equal(clone(model).fit(images).transform(images), model.transform(images))
    assert 0 <= model.score(images) <= 1
    assert "('colorjitter', ColorJitter())" in model.augmentation_name_
    copied = pickle.loads(pickle.dumps(model))
    assert copied.partial_fit(images).n_iter_ == 2
    assert joblib.hash(clone(model).fit(images)) == joblib.hash(clone(model).fit(images))


@each_part
def test_every_part_is_an_augmentation_by_itself(simclr, photos, kind):
    images, _ = photos
    model = simclr(augmentation=kind(), max_epochs=1, image_size=12).fit(images)
    assert model.transform(images).shape == (32, 4)


def test_skops_needs_to_trust_the_classes_of_this_package_only(simclr, photos):
    skops = pytest.importorskip("skops.io")
    model = simclr(augmentation=everything(), max_epochs=1).fit(photos[0])
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    assert all(name.startswith("sklearn_simclr.") for name in untrusted), untrusted
    loaded = skops.loads(data, trusted=untrusted)
    assert_array_equal(loaded.transform(photos[0]), model.transform(photos[0]))
    assert loaded.score(photos[0]) == model.score(photos[0])


def test_grid_search_reaches_into_a_composition(simclr, photos):
    images, labels = photos
    model = Pipeline(
        [
            ("simclr", simclr(augmentation=simclr_parts(), max_epochs=1)),
            ("clf", LogisticRegression()),
        ]
    )
    grid = {
        "simclr__augmentation__jitter__strength": [0.25, 1.0],
        "simclr__augmentation__blur": [GaussianBlur(p=0), Cutout(length=0.3)],
    }
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(images, labels)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_[0].get_params()
    for name, value in search.best_params_.items():
        assert repr(best[name.removeprefix("simclr__")]) == repr(value)
    assert model.get_params()["simclr__augmentation__blur__sigma"] == (0.1, 2.0)  # left alone
