"""Random views: parameters drawn for each sample, then applied to the whole batch at once.

An augmentation is called as ``augmentation(batch, generator)`` and returns a view. Its
``make_params`` draws where the generator lives, its ``apply`` makes the pixels where the batch
lives. Training draws on the CPU: a seed then gives the same views on every device, and choosing
the samples that an operation applies to never waits for a GPU.
"""

import math
from numbers import Integral, Real

import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval
from torch import Generator, Tensor
from torch.nn import functional as F

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses
_CROP_TRIES = 10
_LARGEST_SHARP_SIDE = 32  # the paper does not blur CIFAR-10 (appendix B.9)
_PROBABILITY = [Interval(Real, 0, 1, closed="both")]


class SimCLRAugmentation(BaseEstimator):
    """Views of photographs as in the paper: crop, flip, colour, grayscale, blur.

    Every sample draws its own parameters, the order of its colour operations included. The
    results equal torchvision's functional operations on the same parameters.

    Parameters
    ----------
    crop_scale : tuple of (float, float), default=(0.08, 1.0)
        Smallest and largest share of the image's area that a crop covers, in (0, 1]. Its aspect
        ratio lies between 3/4 and 4/3.
    flip_p : float, default=0.5
        Probability of a horizontal flip.
    color_strength : float, default=0.5
        The paper's s, >= 0: brightness, contrast and saturation change by factors within
        ``1 ± 0.8 s``, the hue within ``± 0.2 s`` turns (at most half a turn). 1 in the paper for
        ImageNet, 0.5 for CIFAR-10. Images without exactly 3 channels have no saturation and no hue.
    color_p : float, default=0.8
        Probability that a sample's colours change.
    grayscale_p : float, default=0.2
        Probability that a sample loses its colours; only images of 3 channels have any.
    blur_p : float, default=0.5
        Probability of a Gaussian blur with a sigma from [0.1, 2] pixels and a kernel of a tenth
        of the side. Views of at most 32 pixels are never blurred, as in the paper.
    size : int or None, default=None
        Side of the views in pixels; None: as high and wide as the images.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020), appendix A.
       https://arxiv.org/abs/2002.05709

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import SimCLRAugmentation
    >>> augmentation = SimCLRAugmentation(size=24)
    >>> images = torch.rand(10, 3, 32, 32)
    >>> augmentation(images, torch.Generator().manual_seed(0)).shape
    torch.Size([10, 3, 24, 24])
    """

    _parameter_constraints: dict = {
        "crop_scale": [tuple, list],
        "flip_p": _PROBABILITY,
        "color_strength": [Interval(Real, 0, None, closed="left")],
        "color_p": _PROBABILITY,
        "grayscale_p": _PROBABILITY,
        "blur_p": _PROBABILITY,
        "size": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        crop_scale=(0.08, 1.0),
        flip_p=0.5,
        color_strength=0.5,
        color_p=0.8,
        grayscale_p=0.2,
        blur_p=0.5,
        size=None,
    ):
        self.crop_scale = crop_scale
        self.flip_p = flip_p
        self.color_strength = color_strength
        self.color_p = color_p
        self.grayscale_p = grayscale_p
        self.blur_p = blur_p
        self.size = size

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """Return one random view of each image.

        Parameters
        ----------
        batch : Tensor of shape (n, c, h, w)
            Images in [0, 1].
        generator : torch.Generator
            Source of the randomness.

        Returns
        -------
        Tensor of shape (n, c, size, size), or (n, c, h, w) without `size`
            Views in [0, 1].
        """
        return self.apply(batch, self.make_params(batch.shape, generator))

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()
        _check_range("crop_scale", self.crop_scale, self, upper=1)

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each sample of a batch of shape (n, c, h, w)."""
        n, _, height, width = shape
        strength = 0.8 * self.color_strength
        hue = min(0.2 * self.color_strength, 0.5)
        low = _floats([max(0, 1 - strength)] * 3 + [-hue], generator)
        high = _floats([1 + strength] * 3 + [hue], generator)
        return _draw_crops(n, height, width, self.crop_scale, generator) | {
            "flip": _rand(n, generator) < self.flip_p,
            "jitter": _rand(n, generator) < self.color_p * (self.color_strength > 0),
            "order": _rand((n, len(_COLOR_OPERATIONS)), generator).argsort(1),
            "factors": low + (high - low) * _rand((n, len(_COLOR_OPERATIONS)), generator),
            "grayscale": _rand(n, generator) < self.grayscale_p,
            "blur": _rand(n, generator) < self.blur_p,
            "sigma": _uniform(n, 0.1, 2.0, generator),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        box = [params[key] for key in ("top", "left", "height", "width")]
        view = resized_crop(batch, *box, params["flip"], self.size or batch.shape[-2:])
        _update(view, params["jitter"], color_jitter, params["order"], params["factors"])
        if view.shape[1] == 3:
            _update(view, params["grayscale"], lambda rows: _luma(rows).expand_as(rows))
        if max(view.shape[-2:]) > _LARGEST_SHARP_SIDE:
            _update(view, params["blur"], gaussian_blur, params["sigma"])
        return view


class AffineAugmentation(BaseEstimator):
    """Views of digits, characters and textures: small affine maps and noise, no flip, no colour.

    Parameters
    ----------
    degrees : float, default=15
        Largest rotation to either side, in degrees, >= 0.
    translate : float, default=0.1
        Largest shift to either side, as a share of the height and of the width, >= 0.
    scale : tuple of (float, float), default=(0.8, 1.2)
        Smallest and largest magnification, > 0.
    shear : float, default=10
        Largest shear along each axis to either side, in degrees, in [0, 90).
    noise : float, default=0.1
        Standard deviation of the Gaussian noise added to pixels in [0, 1], >= 0.

    Notes
    -----
    What lies outside the image repeats its border. Interpolation is bilinear. The maps equal
    torchvision's ``affine`` on the same parameters, wherever that stays inside the image.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import AffineAugmentation
    >>> images = torch.rand(10, 1, 8, 8)
    >>> AffineAugmentation()(images, torch.Generator().manual_seed(0)).shape
    torch.Size([10, 1, 8, 8])
    """

    _parameter_constraints: dict = {
        "degrees": [Interval(Real, 0, None, closed="left")],
        "translate": [Interval(Real, 0, None, closed="left")],
        "scale": [tuple, list],
        "shear": [Interval(Real, 0, 90, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, *, degrees=15, translate=0.1, scale=(0.8, 1.2), shear=10, noise=0.1):
        self.degrees = degrees
        self.translate = translate
        self.scale = scale
        self.shear = shear
        self.noise = noise

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """Return one random view of each image.

        Parameters
        ----------
        batch : Tensor of shape (n, c, h, w)
            Images in [0, 1].
        generator : torch.Generator
            Source of the randomness.

        Returns
        -------
        Tensor of shape (n, c, h, w)
            Views; the noise may leave [0, 1].
        """
        return self.apply(batch, self.make_params(batch.shape, generator))

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()
        _check_range("scale", self.scale, self, upper=math.inf)

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each sample of a batch of shape (n, c, h, w)."""
        n, _, height, width = shape
        reach = _floats([width * self.translate, height * self.translate], generator)
        return {
            "angle": _uniform(n, -self.degrees, self.degrees, generator),
            "translate": reach * _uniform((n, 2), -1, 1, generator),  # pixels along x and y
            "scale": _uniform(n, *self.scale, generator),
            "shear": _uniform((n, 2), -self.shear, self.shear, generator),
            "noise": self.noise * _randn(shape, generator),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        params = {key: value.to(batch.device) for key, value in params.items()}
        noise = params.pop("noise")
        return affine(batch, **params) + noise


class FeatureCorruption(BaseEstimator):
    """Views of vectors as in SCARF: random features take the value of another sample.

    A share `rate` of each sample's features is replaced by draws from their empirical marginal
    distributions, that is, by the same feature of samples picked at random from the batch, a
    random part of the data. As in SCARF, one view of a pair is corrupted and the other is the
    sample itself.

    Parameters
    ----------
    rate : float, default=0.6
        Share of the features that are replaced, in (0, 1]; rounded down to whole features, but at
        least one.

    References
    ----------
    .. [1] Bahri, Jiang, Tay & Metzler (2022). SCARF: Self-Supervised Contrastive Learning using
       Random Feature Corruption. ICLR. https://arxiv.org/abs/2106.15147

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import FeatureCorruption
    >>> vectors = torch.arange(50.0).reshape(5, 10)
    >>> view = FeatureCorruption(rate=0.6)(vectors, torch.Generator().manual_seed(0))
    >>> bool(((view - vectors) % 10 == 0).all())  # a feature takes that feature's values only
    True
    """

    _parameter_constraints: dict = {"rate": [Interval(Real, 0, 1, closed="right")]}

    def __init__(self, rate=0.6):
        self.rate = rate

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """Return one random view of each sample.

        Parameters
        ----------
        batch : Tensor of shape (n, d)
            Vectors.
        generator : torch.Generator
            Source of the randomness.

        Returns
        -------
        Tensor of shape (n, d)
            The corrupted vectors.
        """
        return self.apply(batch, self.make_params(batch.shape, generator))

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which features of a batch of shape (n, d) are replaced, and by whose."""
        n, d = shape
        n_corrupted = max(1, math.floor(self.rate * d + 1e-9))  # 0.7 * 90 is 62.99...
        return {
            "corrupted": _rand(shape, generator).argsort(1) < n_corrupted,  # (n, d)
            "donor": torch.randint(n, shape, generator=generator, device=generator.device),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        params = {key: value.to(batch.device) for key, value in params.items()}
        return torch.where(params["corrupted"], batch.gather(0, params["donor"]), batch)


def resized_crop(
    batch: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    flip: Tensor,
    size: int | tuple[int, int],
) -> Tensor:
    """Cut a box of whole pixels out of each image, flip it if asked, and resize it.

    Bilinear with anti-aliasing, as two products with sparse interpolation matrices; equal to
    torchvision's ``resized_crop`` of each image.

    Parameters
    ----------
    batch : Tensor of shape (n, c, h, w)
        Images.
    top, left, height, width : integer Tensor of shape (n,)
        The boxes, in pixels.
    flip : bool Tensor of shape (n,)
        Which boxes are mirrored left to right.
    size : int or (int, int)
        Height and width of the result, in pixels.

    Returns
    -------
    Tensor of shape (n, c, out_height, out_width)

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import resized_crop
    >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    >>> at = torch.tensor([0])
    >>> resized_crop(image, at, at + 1, at + 1, at + 2, flip=at == 0, size=(1, 2))
    tensor([[[[2., 1.]]]])
    """
    out_height, out_width = (size, size) if isinstance(size, int) else size
    n, channels, in_height, in_width = batch.shape
    rows = _interpolation_matrix(top, height, in_height, out_height)  # (n, out_h, in_h)
    columns = _interpolation_matrix(left, width, in_width, out_width)  # (n, out_w, in_w)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows, columns = (
        matrix.to(batch.device, batch.dtype, non_blocking=True) for matrix in (rows, columns)
    )
    # Columns first, all channels of an image in one product, then rows channel by channel.
    wide = batch.reshape(n, channels * in_height, in_width) @ columns.mT
    return rows[:, None] @ wide.view(n, channels, in_height, out_width)


def _interpolation_matrix(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """Weights (n, n_out, n_in) that resize the stretch [start, start + length) to n_out pixels."""
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / n_out
    out_pixel, pixel = (torch.arange(n, device=start.device).float() + 0.5 for n in (n_out, n_in))
    centre = start + out_pixel[:, None] * scale
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(2, keepdim=True)


def color_jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images in [0, 1]. Saturation and hue are left alone unless c is 3.
    order : integer Tensor of shape (n, 4)
        A permutation of 0 (brightness), 1 (contrast), 2 (saturation) and 3 (hue) for each image.
    factors : Tensor of shape (n, 4)
        Factors of brightness, contrast and saturation, 1 changes nothing; and the turn of the hue
        in [-0.5, 0.5].

    Returns
    -------
    Tensor of shape (n, c, h, w)
        Clipped to [0, 1] after each operation.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import color_jitter
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> third_of_a_turn = torch.tensor([[1.0, 1.0, 1.0, 1 / 3]])
    >>> color_jitter(red, torch.arange(4)[None], third_of_a_turn).flatten().round()
    tensor([0., 1., 0.])
    """
    images = images.clone()
    operations = _COLOR_OPERATIONS if images.shape[1] == 3 else _COLOR_OPERATIONS[:2]
    for turn in order.T:
        for number, operation in enumerate(operations):
            _update(images, turn == number, operation, factors[:, number])
    return images


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, c, h, w) with black."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, c, h, w) with its mean grey."""
    return _blend(images, _luma(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, 3, h, w) with its grayscale version."""
    return _blend(images, _luma(images), factor)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of each image (n, 3, h, w), keeping HSV's saturation and value.

    Turning the hue keeps the largest and the smallest of a pixel's three channels, so the way
    through HSV shrinks to one piecewise linear function of the hue for each channel.
    """
    red, green, blue = images.unbind(1)
    low, high = images.aminmax(dim=1)
    span = high - low
    divisor = torch.where(span > 0, span, 1)
    hue = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )  # in sixths of a turn
    hue = hue + 6 * turn.view(-1, 1, 1)
    sector = (images.new_tensor([5, 3, 1]).view(3, 1, 1) + hue[:, None]).remainder_(6)
    fade = torch.minimum(sector, 4 - sector).clamp_(0, 1)
    return torch.addcmul(high[:, None], span[:, None], fade, value=-1)


_COLOR_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own sigma and an odd kernel of a tenth of the side.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images; mirrored beyond their borders.
    sigma : Tensor of shape (n,)
        Standard deviations in pixels, > 0.

    Returns
    -------
    Tensor of shape (n, c, h, w)

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import gaussian_blur
    >>> flat = torch.full((1, 1, 40, 40), 0.5)
    >>> torch.allclose(gaussian_blur(flat, torch.tensor([2.0])), flat)
    True
    """
    n, channels, height, width = images.shape
    # A kernel of 2 * radius + 1 is a tenth of the side, odd; a mirror shows less than the image.
    radius = min(max(height, width) // 20, height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None].to(images.device)) ** 2, dim=1)
    kernel = kernel.repeat_interleave(channels, 0)[:, None]  # (n * c, 1, k)
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]  # (1, n * c, h, w)
    blurred = F.conv2d(padded, kernel[:, :, None], groups=n * channels)
    blurred = F.conv2d(blurred, kernel[..., None], groups=n * channels)
    return blurred.view_as(images)


def affine(
    images: Tensor, angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor
) -> Tensor:
    """Rotate, shift, magnify and shear each image about its centre; borders are repeated.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images.
    angle : Tensor of shape (n,)
        Rotation in degrees, clockwise.
    translate : Tensor of shape (n, 2)
        Shift in pixels along x and y.
    scale : Tensor of shape (n,)
        Magnification, > 0.
    shear : Tensor of shape (n, 2)
        Shear in degrees along x and y.

    Returns
    -------
    Tensor of shape (n, c, h, w)

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import affine
    >>> image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> zero, one_right = torch.zeros(1), torch.tensor([[1.0, 0.0]])
    >>> affine(image, zero, one_right, zero + 1, torch.zeros(1, 2)).flatten().round()
    tensor([1., 1., 2.])
    """
    height, width = images.shape[-2:]
    rotation, shear_x, shear_y = (torch.deg2rad(a) for a in (angle, shear[:, 0], shear[:, 1]))
    # Inverse of rotation * shear * scale, then of the shift: output to input coordinates.
    cos, sin = (
        torch.cos(rotation - shear_y) / torch.cos(shear_y),
        torch.sin(rotation - shear_y) / torch.cos(shear_y),
    )
    linear = torch.stack(
        [
            torch.cos(rotation) - sin * torch.tan(shear_x),
            torch.sin(rotation) + cos * torch.tan(shear_x),
            -sin,
            cos,
        ],
        dim=1,
    ).view(-1, 2, 2) / scale.view(-1, 1, 1)
    shift = -(linear @ translate[:, :, None])
    # affine_grid counts in half sides instead of pixels.
    half = images.new_tensor([width / 2, height / 2])
    theta = torch.cat([linear * half / half[:, None], shift / half[:, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def resize(batch: Tensor, size: int) -> Tensor:
    """Bring whole images (n, c, h, w) to a square of `size` pixels, with anti-aliasing."""
    if batch.shape[-2:] == (size, size):
        return batch
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True)


def resolve_augmentation(augmentation, image_shape: tuple | None, view_size: int | None):
    """Turn the parameter `augmentation` into a callable; an augmentation object is copied.

    Raises
    ------
    ValueError
        If an option is out of range, or the augmentation is a class or for other data.
    """
    if augmentation == "auto":
        augmentation = _auto_augmentation(image_shape)
    elif isinstance(augmentation, str):
        augmentation = {"simclr": SimCLRAugmentation, "scarf": FeatureCorruption}[augmentation]()
    elif isinstance(augmentation, type):
        raise ValueError(
            f"augmentation={augmentation!r} is a class; pass an object, {augmentation.__name__}()."
        )
    elif hasattr(augmentation, "make_params"):
        augmentation = clone(augmentation)
    else:
        return augmentation
    if isinstance(augmentation, FeatureCorruption if image_shape else _FOR_IMAGES):
        kind = "images" if image_shape else "vectors; pass image_shape if its rows are images"
        raise ValueError(f"augmentation={augmentation!r} does not suit X, which holds {kind}.")
    if hasattr(augmentation, "validate"):
        augmentation.validate()
    if getattr(augmentation, "size", view_size) is None:
        augmentation.size = view_size
    return augmentation


_FOR_IMAGES = (SimCLRAugmentation, AffineAugmentation)


def _auto_augmentation(image_shape: tuple | None):
    if image_shape is None:
        return FeatureCorruption(0.4)  # of small tables the paper's 0.6 leaves too little
    return AffineAugmentation() if image_shape[2] == 1 else SimCLRAugmentation()


def two_views(augmentation, batch: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return the pair of views that the loss compares.

    Augmentation objects, those with ``make_params``, get the generator; any other callable gets
    the batch alone and draws as it likes.
    """
    if isinstance(augmentation, FeatureCorruption):
        return batch, augmentation(batch, generator)
    if hasattr(augmentation, "make_params"):
        return augmentation(batch, generator), augmentation(batch, generator)
    return augmentation(batch.clone()), augmentation(batch)  # it may work in place


def _draw_crops(
    n: int, height: int, width: int, scale: tuple[float, float], generator: Generator
) -> dict[str, Tensor]:
    """Boxes with an area in `scale` and an aspect ratio in [3/4, 4/3], as torchvision draws them.

    Of ten tries the first that fits is taken; if none does, the largest central box of an allowed
    aspect ratio.
    """
    tries = (n, _CROP_TRIES)
    area = height * width * _uniform(tries, *scale, generator)
    ratio = _uniform(tries, math.log(3 / 4), math.log(4 / 3), generator).exp()
    # The last column is the central box.
    heights = F.pad((area / ratio).sqrt().round(), (0, 1), value=min(height, round(width * 4 / 3)))
    widths = F.pad((area * ratio).sqrt().round(), (0, 1), value=min(width, round(height * 4 / 3)))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    box_height, box_width = (side.gather(1, first).squeeze(1).long() for side in (heights, widths))
    free = torch.stack([height - box_height, width - box_width])  # (2, n)
    corner = (_rand((2, n), generator) * (free + 1)).long().minimum(free)
    corner = torch.where(first.squeeze(1) == _CROP_TRIES, free // 2, corner)
    return {"top": corner[0], "left": corner[1], "height": box_height, "width": box_width}


def _update(images: Tensor, chosen: Tensor, operation, *params: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by ``operation(rows, *their_params)``."""
    index = chosen.nonzero().squeeze(1)
    if len(index):
        params = [param[index].to(images.device, non_blocking=True) for param in params]
        index = index.to(images.device, non_blocking=True)
        images[index] = operation(images[index], *params)


def _luma(images: Tensor) -> Tensor:
    """Grey version (n, 1, h, w); the mean of the channels unless there are 3."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def _rand(shape, generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float32, device=generator.device)


def _randn(shape, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)


def _floats(values: list[float], generator: Generator) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=generator.device)


def _uniform(shape, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * _rand(shape, generator)


def _check_range(name: str, value, owner, *, upper: float) -> None:
    """Refuse a (low, high) parameter unless 0 < low <= high <= upper."""
    is_pair = len(value) == 2 and all(isinstance(end, Real) for end in value)
    if not is_pair or not 0 < value[0] <= value[1] <= upper or value[1] == math.inf:
        bound = "" if upper == math.inf else f" <= {upper}"
        raise ValueError(
            f"The {name!r} parameter of {type(owner).__name__} must be a pair (low, high) with "
            f"0 < low <= high{bound}. Got {value!r} instead."
        )
