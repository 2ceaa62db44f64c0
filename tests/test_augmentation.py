"""Random views against torchvision's functional operations, and how their parameters are drawn."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as tv

from sklearn_simclr import _kernels
from sklearn_simclr._kernels import (
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue_,
    adjust_saturation_,
    affine,
    color_jitter,
    gaussian_blur,
    hue_mixes,
    kept_inside_,
    resize,
    resized_crop,
)
from sklearn_simclr._views import two_views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    Compose,
    Crop,
    FeatureCorruption,
    Flip,
    GaussianNoise,
    SimCLRAugmentation,
    resolve_augmentation,
    takes_bytes,
)

IMAGE_AUGMENTATIONS = (SimCLRAugmentation(), AffineAugmentation())
STILL = {"crop_scale": (1.0, 1.0), "flip_p": 0, "color_p": 0, "grayscale_p": 0, "blur_p": 0}
BYTES = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
RESIZES_BYTES = torch.equal(
    tv.resize(BYTES, [5, 7], antialias=True),
    F.interpolate(BYTES, (5, 7), mode="bilinear", antialias=True),
)
TV_COLOR = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed))


def uniform(low, high, *shape, seed=0):
    return low + (high - low) * rand(*shape, seed=seed)


def assert_close(actual, expected, atol=2e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def per_sample(operation, images, *params):
    rows = zip(images, *(param.tolist() for param in params), strict=True)
    return torch.stack([operation(image, *values) for image, *values in rows])


# Geometry


@pytest.mark.parametrize(
    "shape, size",
    [
        ((40, 30), 24),
        ((12, 17), 32),  # up
        ((64, 64), 9),  # far down
        ((17, 33), (21, 8)),  # one side up, the other down
        ((8, 8), 8),
        ((1, 1), 5),
    ],
)
def test_resized_crop_equals_torchvision(shape, size):
    n = 24
    images = rand(n, 3, *shape)
    rng = np.random.default_rng(0)
    height, width = (torch.from_numpy(rng.integers(1, side + 1, n)) for side in shape)
    height[0], width[0] = shape  # the whole image
    height[1], width[1] = 1, 1
    top = torch.from_numpy(rng.integers(0, shape[0] - height.numpy() + 1))
    left = torch.from_numpy(rng.integers(0, shape[1] - width.numpy() + 1))
    flip = torch.arange(n) % 3 == 0

    def expected(image, top, left, height, width, flip):
        size_ = [size, size] if isinstance(size, int) else list(size)
        crop = tv.resized_crop(image, top, left, height, width, size_, antialias=True)
        return tv.horizontal_flip(crop) if flip else crop

    actual = resized_crop(images, top, left, height, width, flip, size)
    assert_close(actual, per_sample(expected, images, top, left, height, width, flip))


@pytest.mark.parametrize("shape, size", [((12, 17), 32), ((40, 30), 16), ((16, 16), 16)])
def test_resize_equals_torchvision(shape, size):
    images = rand(3, 3, *shape)
    assert_close(resize(images, size), tv.resize(images, [size, size], antialias=True))


@pytest.mark.parametrize("shape", [(16, 16), (15, 22), (28, 9)])
@pytest.mark.parametrize("changed", ["angle", "translate", "scale", "shear", "all"])
def test_affine_equals_torchvision_on_images_with_a_blank_border(shape, changed):
    n = 12
    images = torch.zeros(n, 2, *shape)
    images[..., 2:-2, 2:-2] = rand(n, 2, shape[0] - 4, shape[1] - 4)
    params = {
        "angle": uniform(-180, 180, n, seed=1),
        "translate": uniform(-4, 4, n, 2, seed=2),
        "scale": uniform(0.5, 1.8, n, seed=3),
        "shear": uniform(-40, 40, n, 2, seed=4),
    }
    neutral = {"angle": 0, "translate": 0, "scale": 1, "shear": 0}
    for name in params:
        if changed not in (name, "all"):
            params[name] = torch.full_like(params[name], neutral[name])

    def expected(image, angle, translate, scale, shear):
        bilinear = tv.InterpolationMode.BILINEAR
        return tv.affine(image, angle, translate, scale, shear, interpolation=bilinear)

    assert_close(affine(images, **params), per_sample(expected, images, *params.values()))


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 5, 9)])
def test_points_kept_inside_repeat_the_border(shape):
    images, theta = rand(*shape), torch.eye(2, 3) + uniform(-2, 2, shape[0], 2, 3, seed=1)
    grid = F.affine_grid(theta, shape, align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    sampled = F.grid_sample(images, kept_inside_(grid, *shape[2:]), align_corners=False)
    assert torch.allclose(sampled, expected, atol=1e-5)


def test_affine_repeats_the_border():
    images = torch.ones(1, 1, 5, 5)
    zero = torch.zeros(1)
    shifted = affine(images, zero, torch.tensor([[3.0, -2.0]]), zero + 1, torch.zeros(1, 2))
    assert_close(shifted, images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [20, 80])
@pytest.mark.parametrize("part", [Crop(), GaussianNoise(p=1)])
def test_views_in_half_precision_are_nearly_those_of_floats(part, side, dtype):
    images = (0.25 + rand(8, 3, side, side) / 2).to(dtype)
    actual, expected = part(images, seeded()), part(images.float(), seeded())
    assert actual.dtype == dtype
    assert_close(actual.float(), expected, atol=0.02)


@pytest.mark.parametrize("shape", [(3, 20, 31), (1, 20, 31), (3, 90, 71), (1, 90, 71)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_crops_of_bytes_equal_torchvision(shape, channels_last):
    images = (256 * rand(8, *shape)).to(torch.uint8)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    params = SimCLRAugmentation().make_params(images.shape, seeded())
    box = [params[name] for name in ("top", "left", "height", "width")]
    is_large = max(shape) >= 64

    def expected(image, top, left, height, width, is_flipped):
        image = image if is_large else image.float()
        crop = tv.resized_crop(image, top, left, height, width, [40, 44], antialias=True)
        return (tv.horizontal_flip(crop) if is_flipped else crop) / 255

    actual = resized_crop(images, *box, params["flip"], (40, 44))
    assert actual.dtype == torch.float32
    # On some processors torchvision 0.23 resizes bytes as floats and rounds: up to a level apart.
    is_exact = not is_large or RESIZES_BYTES
    assert_close(
        actual,
        per_sample(expected, images, *box, params["flip"]),
        atol=2e-5 if is_exact else 1 / 255 + 2e-5,
    )


class Darkening(SimCLRAugmentation):
    """Darker photographs, as a subclass that reads floats makes them."""

    def apply(self, batch, params):
        return super().apply(batch / 2, params)


class DarkeningCrop(Crop):
    def apply(self, batch, params):
        return super().apply(batch / 2, params)


@pytest.mark.parametrize(
    "augmentation, expected",
    [
        (SimCLRAugmentation(), True),
        (Crop(), True),
        (Compose([("crop", Crop()), ("flip", Flip())]), True),
        (Compose([("flip", Flip()), ("crop", Crop())]), False),
        (AffineAugmentation(), False),
        (FeatureCorruption(), False),
        (torch.flip, False),
        (Darkening(), False),
        (Compose([("crop", DarkeningCrop()), ("flip", Flip())]), False),
    ],
)
def test_what_begins_with_a_crop_takes_bytes(augmentation, expected):
    assert takes_bytes(augmentation) is expected


# Colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_brightness_contrast_and_saturation_equal_torchvision(channels, factor):
    images = rand(4, channels, 7, 5)
    factors = torch.full((4,), factor)
    operations = (adjust_brightness_, adjust_contrast_, adjust_saturation_)
    operations = operations[: 3 if channels == 3 else 2]
    for ours, theirs in zip(operations, TV_COLOR, strict=False):
        changed = images.clone()
        ours(changed, factors)
        assert_close(changed, per_sample(theirs, images, factors))


@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.1, 0.0, 1e-3, 0.1, 1 / 3, 0.5])
def test_hue_equals_torchvision(turn):
    corners = torch.tensor(list(itertools.product([0.0, 0.25, 0.5, 1.0], repeat=3)))  # grays, ties
    pixels = torch.cat([corners, rand(200, 3)]).T[None, :, :, None]  # (1, 3, pixels, 1)
    turned = pixels.clone()
    adjust_hue_(turned, hue_mixes(torch.tensor([turn])))
    assert_close(turned, tv.adjust_hue(pixels, turn))


def test_hue_equals_torchvision_around_the_circle():
    turns = torch.linspace(-0.5, 0.5, 101)
    images = rand(101, 3, 8, 8)
    turned = images.clone()
    adjust_hue_(turned, hue_mixes(turns))
    assert_close(turned, per_sample(tv.adjust_hue, images, turns), atol=4e-6)


@pytest.fixture(params=["in parts that fit the cache", "in few calls"])
def either_way(request, monkeypatch):
    """Make the views as on a CPU, and as on a GPU."""
    monkeypatch.setattr(_kernels, "_is_on_cpu", lambda images: "cache" in request.param)


@pytest.mark.usefixtures("either_way")
def test_color_jitter_equals_torchvision_in_each_of_the_24_orders():
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = rand(24, 3, 6, 9)
    factors = torch.cat([uniform(0.2, 1.8, 24, 3, seed=1), uniform(-0.5, 0.5, 24, 1, seed=2)], 1)

    def expected(image, order, factors):
        for number in order:
            image = TV_COLOR[number](image, factors[number])
        return image

    actual = color_jitter(images, orders, factors)
    assert_close(actual, per_sample(expected, images, orders, factors))


def test_color_jitter_is_the_same_in_few_calls_as_in_cache_sized_parts(monkeypatch):
    images, augmentation = rand(60, 3, 20, 20), SimCLRAugmentation()
    params = augmentation.make_params(images.shape, seeded())
    by_sample = augmentation.apply(images, params)
    monkeypatch.setattr(_kernels, "_is_on_cpu", lambda images: False)
    assert_close(augmentation.apply(images, params), by_sample, atol=1e-6)


def test_large_views_are_the_same_in_few_calls_as_in_cache_sized_parts(monkeypatch):
    images, augmentation = rand(6, 3, 80, 70), SimCLRAugmentation(size=66, blur_p=1.0)
    params = augmentation.make_params(images.shape, seeded())
    one_by_one = augmentation.apply(images, params)
    monkeypatch.setattr(_kernels, "_is_on_cpu", lambda images: False)
    assert_close(augmentation.apply(images, params), one_by_one)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_color_jitter_of_images_without_3_channels_changes_brightness_and_contrast_only(channels):
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = rand(24, channels, 6, 9)
    factors = torch.cat([uniform(0.2, 1.8, 24, 3, seed=1), uniform(-0.5, 0.5, 24, 1, seed=2)], 1)

    def expected(image, order, factors):
        for number in order:
            if number == 0:
                image = (image * factors[0]).clamp(0, 1)
            elif number == 1:
                image = (image * factors[1] + image.mean() * (1 - factors[1])).clamp(0, 1)
        return image

    actual = color_jitter(images, orders, factors)
    assert_close(actual, per_sample(expected, images, orders, factors))


# Blur


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_operations_take_images_of_any_float_type(dtype):
    images, ones = rand(6, 3, 40, 40), torch.ones(6)
    params = SimCLRAugmentation().make_params(images.shape, seeded())
    operations = [
        lambda images: color_jitter(images, params["order"], params["factors"]),
        lambda images: gaussian_blur(images, params["sigma"]),
        lambda images: affine(images, 10 * ones, torch.ones(6, 2), ones, torch.ones(6, 2)),
        lambda images: resized_crop(images, *[5 * ones.long()] * 4, ones == 1, 30),
    ]
    for operation in operations:
        result = operation(images.to(dtype))
        assert result.dtype == dtype
        assert_close(result.float(), operation(images), atol=1e-5 if dtype.itemsize > 4 else 0.2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_affine_finds_its_pixels_in_half_precision(dtype):
    images, zero = rand(2, 1, 96, 256).to(dtype), torch.zeros(2)
    still = affine(images, zero, torch.zeros(2, 2), zero + 1, torch.zeros(2, 2))
    assert still.dtype == dtype
    assert_close(still.float(), images.float(), atol=1e-2)
    assert AffineAugmentation()(images, seeded()).dtype == dtype


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 80, 70), (1, 40, 40)])
@pytest.mark.parametrize("augmentation", [SimCLRAugmentation(), AffineAugmentation()])
def test_autocast_leaves_the_views_as_they_are(augmentation, shape):
    images = rand(12, *shape)
    params = augmentation.make_params(images.shape, seeded())
    expected = augmentation.apply(images, params)
    with torch.autocast("cpu", torch.bfloat16):
        views = augmentation.apply(images, params)
    assert torch.equal(views, expected)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("shape", [(33, 33), (48, 64), (96, 40), (160, 221)])
def test_gaussian_blur_equals_torchvision(shape, has_onednn, monkeypatch):
    monkeypatch.setattr(_kernels, "_has_onednn", lambda: has_onednn)
    images = rand(7, 3, *shape)
    sigma = torch.tensor([0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 30.0])
    kernel = 2 * (max(shape) // 20) + 1

    def expected(image, sigma):
        return tv.gaussian_blur(image, [kernel, kernel], [sigma, sigma])

    blurred = gaussian_blur(images, sigma)
    assert_close(blurred, per_sample(expected, images, sigma), atol=3e-6)


@pytest.mark.parametrize("side", [33, 40, 59, 60, 96, 224])
def test_blur_kernel_is_odd_and_a_tenth_of_the_side(side):
    point = torch.zeros(1, 1, side, side)
    point[..., side // 2, side // 2] = 1
    blurred = gaussian_blur(point, torch.tensor([50.0]))[0, 0]
    width = int((blurred[side // 2] > 0).sum())
    assert width % 2 == 1
    assert abs(width - side / 10) <= 1
    assert int((blurred[:, side // 2] > 0).sum()) == width
    assert_close(blurred, blurred.flip(0, 1).roll((1 - side % 2,) * 2, (0, 1)))  # centred


@pytest.mark.parametrize("side, blurred", [(8, False), (32, False), (33, True), (64, True)])
def test_views_of_at_most_32_pixels_are_not_blurred(side, blurred):
    images = rand(8, 3, side, side)
    views = SimCLRAugmentation(**STILL | {"blur_p": 1})(images, seeded())
    assert torch.allclose(views, images, atol=1e-3) is not blurred


def test_the_size_of_the_views_decides_on_the_blur():
    still = STILL | {"blur_p": 1}
    small, large = rand(4, 3, 32, 32), rand(4, 3, 64, 64)
    upscaled = SimCLRAugmentation(**still, size=64)(small, seeded())
    assert not torch.allclose(upscaled, resize(small, 64), atol=1e-3)
    assert_close(SimCLRAugmentation(**still, size=32)(large, seeded()), resize(large, 32))


@pytest.mark.parametrize("shape", [(4, 100), (100, 3), (1, 40)])
def test_elongated_images_can_be_blurred(shape):
    images = rand(3, 3, *shape)
    views = SimCLRAugmentation(blur_p=1)(images, seeded())
    assert views.shape == images.shape
    assert views.isfinite().all()


# The whole view


def torchvision_view(image, params, size):
    """One sample's view, composed of torchvision's operations."""
    top, left, height, width = (int(params[k]) for k in ("top", "left", "height", "width"))
    image = tv.resized_crop(image, top, left, height, width, list(size), antialias=True)
    if params["flip"]:
        image = tv.horizontal_flip(image)
    if params["jitter"]:
        for number in params["order"].tolist():
            if len(image) == 3 or number < 2:
                image = TV_COLOR[number](image, float(params["factors"][number]))
    if params["grayscale"] and len(image) == 3:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if params["blur"] and max(size) > 32:
        kernel = 2 * (max(size) // 20) + 1
        image = tv.gaussian_blur(image, [kernel] * 2, [float(params["sigma"])] * 2)
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "shape, size", [((32, 32), None), ((40, 56), None), ((30, 50), 48), ((64, 48), 24)]
)
def test_views_equal_a_composition_of_torchvision_on_the_same_parameters(channels, shape, size):
    n = 48
    images = rand(n, channels, *shape)
    augmentation = SimCLRAugmentation(color_strength=1.0, size=size)
    params = augmentation.make_params(images.shape, seeded(1))
    views = augmentation.apply(images, params)
    for i in range(n):
        chosen = {name: value[i] for name, value in params.items()}
        out = (size, size) if size else shape
        assert_close(views[i], torchvision_view(images[i], chosen, out), atol=5e-5)


def test_affine_views_are_the_map_plus_noise():
    images = rand(5, 1, 12, 12)
    augmentation = AffineAugmentation()
    params = augmentation.make_params(images.shape, seeded())
    views = augmentation.apply(images, params)
    noise = params.pop("noise")
    assert_close(views - noise, affine(images, **params))


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("augmentation", IMAGE_AUGMENTATIONS, ids=lambda a: type(a).__name__)
def test_views_of_any_number_of_channels(augmentation, channels):
    images = rand(16, channels, 40, 36)
    views = augmentation(images, seeded())
    assert views.shape == images.shape and views.dtype == torch.float32
    assert ((views - images).abs().amax((1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("size", [None, 20, 48])
def test_views_have_the_size_asked_for_and_stay_in_range(size):
    views = SimCLRAugmentation(size=size)(rand(64, 3, 40, 36), seeded())
    assert views.shape == (64, 3, *((size, size) if size else (40, 36)))
    assert views.min() >= 0 and views.max() <= 1 + 1e-6


def cases():
    images, vectors = rand(32, 3, 40, 40), rand(32, 12)
    pairs = [(augmentation, images) for augmentation in IMAGE_AUGMENTATIONS]
    return [*pairs, (FeatureCorruption(), vectors)]


each_augmentation = pytest.mark.parametrize(
    "augmentation, batch", cases(), ids=lambda a: type(a).__name__
)


@each_augmentation
def test_the_two_views_of_every_sample_differ(augmentation, batch):
    first, second = two_views(augmentation, batch, seeded())
    assert (first != second).flatten(1).any(1).all()


@each_augmentation
def test_the_generator_decides_on_the_views(augmentation, batch):
    state = torch.get_rng_state()
    views = augmentation(batch, seeded(1))
    assert torch.equal(views, augmentation(batch, seeded(1)))
    assert not torch.equal(views, augmentation(batch, seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)


@each_augmentation
def test_the_batch_is_never_modified(augmentation, batch):
    before = batch.clone()
    augmentation(batch, seeded())
    assert torch.equal(batch, before)


@each_augmentation
def test_equal_samples_get_views_of_their_own(augmentation, batch):
    if batch.ndim == 4:
        batch = batch[:1].expand(32, -1, -1, -1)
        views = augmentation(batch, seeded())
    else:  # corruption mixes samples; equal ones show in which features are replaced
        views = augmentation(batch, seeded()) != batch
    assert len(views.flatten(1).unique(dim=0)) > 28


def test_a_callable_draws_each_view_from_the_batch():
    drawn = []

    def shift(batch):
        drawn.append(batch)
        return batch + len(drawn)

    batch = rand(4, 3)
    first, second = two_views(shift, batch, seeded())
    assert torch.equal(first, batch + 1) and torch.equal(second, batch + 2)
    assert all(torch.equal(seen, batch) for seen in drawn)


# How parameters are drawn


@pytest.mark.parametrize(
    "shape", [(32, 32), (1, 1), (2, 2), (1, 50), (50, 1), (3, 200), (200, 3), (31, 9)]
)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1e-4, 2e-4), (1.0, 1.0)])
def test_crops_lie_inside_the_image(shape, scale):
    augmentation = SimCLRAugmentation(crop_scale=scale)
    params = augmentation.make_params((2000, 3, *shape), seeded())
    for start, length, side in (("top", "height", shape[0]), ("left", "width", shape[1])):
        assert (params[length] >= 1).all()
        assert (params[start] >= 0).all()
        assert (params[start] + params[length] <= side).all()


@pytest.mark.parametrize("shape", [(3, 200), (200, 3), (1, 50), (50, 1), (10, 1)])
def test_an_image_too_long_for_any_crop_keeps_torchvisions_central_one(shape):
    image = torch.zeros(3, *shape)
    expected = RandomResizedCrop.get_params(image, [0.6, 1.0], [3 / 4, 4 / 3])
    params = SimCLRAugmentation(crop_scale=(0.6, 1.0)).make_params((50, 3, *shape), seeded())
    for name, value in zip(("top", "left", "height", "width"), expected, strict=True):
        assert (params[name] == value).all()


def test_crops_cover_the_stated_share_of_the_area_at_the_stated_aspects():
    n, side = 4000, 200
    params = SimCLRAugmentation(crop_scale=(0.2, 0.5)).make_params((n, 3, side, side), seeded())
    height, width = params["height"].double(), params["width"].double()
    area = height * width / side**2
    rounding = (height + width) / 2 / side**2
    assert (area >= 0.2 - rounding).all() and (area <= 0.5 + rounding).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all()
    assert ((height - 0.5) / (width + 0.5) <= 4 / 3).all()
    # Uniform in the area, and in the logarithm of the aspect.
    assert area.mean().item() == pytest.approx(0.35, abs=4 * 0.3 / math.sqrt(12 * n))
    assert area.std().item() == pytest.approx(0.3 / math.sqrt(12), rel=0.05)
    log_aspect = (width / height).log()
    assert log_aspect.mean().item() == pytest.approx(0, abs=0.012)
    assert log_aspect.std().item() == pytest.approx(2 * math.log(4 / 3) / math.sqrt(12), rel=0.05)
    for start, length in (("top", "height"), ("left", "width")):
        place = params[start] / (side - params[length])
        assert place.mean().item() == pytest.approx(0.5, abs=0.02)
        assert place.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_crops_are_distributed_as_torchvisions(shape):
    n = 3000
    params = SimCLRAugmentation().make_params((n, 3, *shape), seeded())
    image = torch.zeros(3, *shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    theirs = torch.tensor(boxes).double()
    for column, name in enumerate(("top", "left", "height", "width")):
        ours = params[name].double()
        error = math.sqrt((ours.var() + theirs[:, column].var()) / n)
        assert abs(ours.mean() - theirs[:, column].mean()) < 4 * error
        assert ours.std().item() == pytest.approx(theirs[:, column].std().item(), rel=0.08)


def test_each_sample_draws_parameters_of_its_own():
    params = SimCLRAugmentation().make_params((1000, 3, 200, 200), seeded())
    assert len(params["order"].unique(dim=0)) == 24
    assert (params["order"].sort(1).values == torch.arange(4)).all()
    assert len(params["factors"].unique(dim=0)) > 990
    correlations = torch.corrcoef(params["factors"].T)
    assert (correlations - torch.eye(4)).abs().max() < 4 / math.sqrt(1000)
    assert len(params["sigma"].unique()) > 990
    boxes = torch.stack([params[name] for name in ("top", "left", "height", "width")], 1)
    assert len(boxes.unique(dim=0)) > 990
    switches = torch.stack([params[n] for n in ("flip", "jitter", "grayscale", "blur")], 1)
    assert len(switches.unique(dim=0)) == 16  # drawn apart from each other


@pytest.mark.parametrize("p", [0.0, 0.2, 0.8, 1.0])
def test_probabilities(p):
    n = 4000
    names = {"flip_p": "flip", "color_p": "jitter", "grayscale_p": "grayscale", "blur_p": "blur"}
    for name, switch in names.items():
        augmentation = SimCLRAugmentation(**dict.fromkeys(names, 0.5) | {name: p})
        share = augmentation.make_params((n, 3, 8, 8), seeded())[switch].double().mean().item()
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize(
    "strength, low, high, hue", [(0.5, 0.6, 1.4, 0.1), (1.0, 0.2, 1.8, 0.2), (2.0, 0.0, 2.6, 0.4)]
)
def test_color_strength(strength, low, high, hue):
    params = SimCLRAugmentation(color_strength=strength).make_params((4000, 3, 8, 8), seeded())
    for column, (lowest, highest) in enumerate([(low, high)] * 3 + [(-hue, hue)]):
        drawn = params["factors"][:, column]
        margin = 0.01 * (highest - lowest)
        assert lowest - 1e-6 <= drawn.min() < lowest + margin
        assert highest - margin < drawn.max() <= highest + 1e-6
        assert drawn.mean().item() == pytest.approx((lowest + highest) / 2, abs=2 * margin)


def test_hue_turns_by_half_a_turn_at_most():
    params = SimCLRAugmentation(color_strength=5.0).make_params((4000, 3, 8, 8), seeded())
    assert 0.49 < params["factors"][:, 3].abs().max() <= 0.5


def test_no_color_strength_leaves_the_colors():
    augmentation = SimCLRAugmentation(**STILL | {"color_p": 1.0, "color_strength": 0})
    images = rand(8, 3, 16, 16)
    assert_close(augmentation(images, seeded()), images, atol=1e-6)


def test_sigma_of_the_blur():
    sigma = SimCLRAugmentation().make_params((4000, 3, 64, 64), seeded())["sigma"]
    assert 0.1 <= sigma.min() < 0.12 and 1.98 < sigma.max() <= 2.0
    assert sigma.mean().item() == pytest.approx(1.05, abs=0.04)


def test_affine_parameters():
    n, height, width = 4000, 20, 50
    augmentation = AffineAugmentation(
        degrees=30, translate=0.2, scale=(0.5, 2.0), shear=20, noise=0.3
    )
    params = augmentation.make_params((n, 1, height, width), seeded())
    ranges = [
        (params["angle"], -30, 30),
        (params["translate"][:, 0], -0.2 * width, 0.2 * width),
        (params["translate"][:, 1], -0.2 * height, 0.2 * height),
        (params["scale"], 0.5, 2.0),
        (params["shear"][:, 0], -20, 20),
        (params["shear"][:, 1], -20, 20),
    ]
    for drawn, low, high in ranges:
        margin = 0.01 * (high - low)
        assert low - 1e-5 <= drawn.min() < low + margin
        assert high - margin < drawn.max() <= high + 1e-5
        assert len(drawn.unique()) > 3900
    assert params["noise"].shape == (n, 1, height, width)
    assert params["noise"].std().item() == pytest.approx(0.3, rel=0.01)


# Vectors


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.6, 0.75, 1.0])
@pytest.mark.parametrize("d", [1, 2, 5, 13, 30])
def test_corruption_replaces_the_stated_share_of_each_sample(rate, d):
    n = 1000
    vectors = torch.arange(float(n * d)).view(n, d)
    n_replaced = (FeatureCorruption(rate)(vectors, seeded()) != vectors).sum(1)
    expected = max(1, math.floor(rate * d))
    assert n_replaced.max() == expected
    # Now and then a feature is replaced by its own value.
    assert n_replaced.double().mean().item() == pytest.approx(expected, rel=0.01)


def test_every_feature_is_replaced_as_often():
    n, d = 4000, 10
    vectors = torch.arange(float(n * d)).view(n, d)
    share = (FeatureCorruption(0.3)(vectors, seeded()) != vectors).double().mean(0)
    assert_close(share, torch.full_like(share, 0.3), atol=4 * math.sqrt(0.21 / n))


def test_replacements_come_from_the_same_feature_of_samples_of_the_batch():
    vectors = torch.arange(40 * 7.0).view(40, 7)
    views = FeatureCorruption(0.8)(vectors, seeded())
    for column, values in zip(views.T, vectors.T, strict=True):
        assert set(column.tolist()) <= set(values.tolist())


def test_replacements_follow_the_marginal_of_the_feature():
    n = 6000
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    values = torch.arange(4.0).repeat_interleave((n * shares).long())
    vectors = torch.stack([values, 3 - values, values.roll(17)], 1)
    views = FeatureCorruption(1.0)(vectors, seeded())
    for column, frequencies in zip(views.T, (shares, shares.flip(0), shares), strict=True):
        counts = torch.bincount(column.long(), minlength=4)
        chi_square = ((counts - n * frequencies) ** 2 / (n * frequencies)).sum()
        assert chi_square < 21.1  # the 0.9999 quantile at 3 degrees of freedom


def test_replacements_of_two_features_come_from_different_samples():
    feature = torch.randn(4000, generator=seeded(1))
    views = FeatureCorruption(1.0)(torch.stack([feature, feature], 1), seeded())
    assert abs(torch.corrcoef(views.T)[0, 1].item()) < 4 / math.sqrt(4000)


def test_corruption_leaves_the_first_view_clean():
    vectors = rand(50, 10)
    clean, corrupted = two_views(FeatureCorruption(0.6), vectors, seeded())
    assert torch.equal(clean, vectors)
    assert ((corrupted != vectors).sum(1) >= 1).all()


# The parameter `augmentation`


@pytest.mark.parametrize(
    "name, image_shape, expected",
    [
        ("auto", None, FeatureCorruption(0.4)),
        ("auto", (8, 8, 1), AffineAugmentation()),
        ("auto", (8, 8, 3), SimCLRAugmentation()),
        ("auto", (8, 8, 4), SimCLRAugmentation()),
        ("simclr", (8, 8, 1), SimCLRAugmentation()),
        ("scarf", None, FeatureCorruption(0.6)),
    ],
)
def test_names_stand_for_augmentations(name, image_shape, expected):
    augmentation = resolve_augmentation(name, image_shape, None)
    assert type(augmentation) is type(expected)
    assert augmentation.get_params() == expected.get_params()


def test_a_callable_is_taken_as_it_is():
    def noise(batch):
        return batch

    assert resolve_augmentation(noise, (8, 8, 1), 16) is noise


def test_transforms_of_torchvision_are_callables_for_all_their_methods():
    flip = v2.RandomHorizontalFlip(p=1)
    assert hasattr(flip, "make_params") and hasattr(flip, "apply")
    assert resolve_augmentation(flip, (8, 8, 3), None) is flip
    images = rand(4, 3, 8, 8)
    for view in two_views(flip, images, seeded()):
        assert_close(view, images.flip(3))
    with pytest.raises(ValueError, match="steps"):
        resolve_augmentation(Compose([("flip", flip)]), (8, 8, 3), None)


def test_sizes_may_be_integers_of_numpy():
    images = rand(4, 3, 8, 8)
    for part in (SimCLRAugmentation, Crop):
        assert_close(part(size=np.int64(6))(images, seeded()), part(size=6)(images, seeded()))


def test_an_augmentation_object_is_copied_and_takes_the_view_size_unless_it_has_one():
    own = SimCLRAugmentation(flip_p=0.1)
    resolved = resolve_augmentation(own, (8, 8, 3), 24)
    assert resolved is not own and own.size is None
    assert (resolved.flip_p, resolved.size) == (0.1, 24)
    assert resolve_augmentation(SimCLRAugmentation(size=12), (8, 8, 3), 24).size == 12
    assert not hasattr(resolve_augmentation(AffineAugmentation(), (8, 8, 1), 24), "size")


@pytest.mark.parametrize(
    "augmentation, image_shape, kind",
    [
        ("scarf", (8, 8, 1), "images"),
        (FeatureCorruption(), (8, 8, 3), "images"),
        ("simclr", None, "vectors; pass image_shape"),
        (AffineAugmentation(), None, "vectors; pass image_shape"),
    ],
)
def test_an_augmentation_of_the_other_kind_of_data_is_refused(augmentation, image_shape, kind):
    with pytest.raises(ValueError, match=f"augmentation=.* does not suit X, which holds {kind}"):
        resolve_augmentation(augmentation, image_shape, None)


@pytest.mark.parametrize(
    "kind, name, value",
    [
        (SimCLRAugmentation, "crop_scale", (0, 1)),
        (SimCLRAugmentation, "crop_scale", (0.5, 0.2)),
        (SimCLRAugmentation, "crop_scale", (0.5, 1.5)),
        (SimCLRAugmentation, "crop_scale", (0.5,)),
        (SimCLRAugmentation, "crop_scale", (math.nan, 1)),
        (SimCLRAugmentation, "crop_scale", ("a", "b")),
        (SimCLRAugmentation, "crop_scale", 0.5),
        (SimCLRAugmentation, "flip_p", -0.1),
        (SimCLRAugmentation, "color_strength", -1),
        (SimCLRAugmentation, "color_strength", math.inf),
        (SimCLRAugmentation, "color_p", 1.1),
        (SimCLRAugmentation, "grayscale_p", "often"),
        (SimCLRAugmentation, "blur_p", None),
        (SimCLRAugmentation, "size", 0),
        (SimCLRAugmentation, "size", 24.0),
        (AffineAugmentation, "degrees", -1),
        (AffineAugmentation, "degrees", math.inf),
        (AffineAugmentation, "translate", -0.1),
        (AffineAugmentation, "scale", (0, 1)),
        (AffineAugmentation, "scale", (2, 1)),
        (AffineAugmentation, "scale", (1, math.inf)),
        (AffineAugmentation, "shear", 90),
        (AffineAugmentation, "noise", -1),
        (FeatureCorruption, "rate", 0),
        (FeatureCorruption, "rate", 1.2),
    ],
)
def test_options_out_of_range_are_refused_with_name_and_value(kind, name, value):
    image_shape = None if kind is FeatureCorruption else (8, 8, 3)
    with pytest.raises(ValueError, match=f"'{name}' parameter of {kind.__name__}") as error:
        resolve_augmentation(kind(**{name: value}), image_shape, None)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("kind", [SimCLRAugmentation, AffineAugmentation, FeatureCorruption])
def test_augmentations_are_parameter_objects(kind):
    augmentation = kind()
    assert clone(augmentation).get_params() == augmentation.get_params()
    for name, value in augmentation.get_params().items():
        assert getattr(kind(**{name: value}), name) is value
