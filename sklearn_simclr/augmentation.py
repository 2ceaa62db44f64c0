"""Random views: parameters drawn for each sample, then applied to the whole batch at once.

An augmentation is called as ``augmentation(batch, generator)`` and returns a view. Its
``make_params`` draws on the device of the generator, its ``apply`` makes the pixels on that of the
batch. Training draws on the CPU: a seed then gives the same views on every device, and choosing
the samples that an operation applies to never waits for a GPU. ``validate`` raises an error for
options out of range, and ``skipped(shape)`` lists what does not apply to images of shape (c, h, w).
"""

import math
from numbers import Integral, Real

import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval
from torch import Generator, Tensor

from sklearn_simclr._composition import Compose, draws_params, parts_of, skipped_by
from sklearn_simclr._kernels import (
    affine,
    blur_rows,
    color_jitter,
    gaussian_blur,
    grayscale,
    jitter_rows,
    resized_crop,
    update_rows,
)
from sklearn_simclr._placement import placed
from sklearn_simclr._view_params import (
    CROP_RATIO,
    PROBABILITY,
    check_range,
    draw_color_jitter,
    draw_crops,
    floats,
    rand,
    randn,
    uniform,
)
from sklearn_simclr._view_parts import (
    ColorDrop,
    ColorJitter,
    Crop,
    Cutout,
    Flip,
    GaussianBlur,
    GaussianNoise,
    QuarterTurns,
    Rotation,
    Sobel,
    Solarize,
    ViewPart,
)
from sklearn_simclr._warnings import warn_caller

__all__ = [
    "AffineAugmentation",
    "ColorDrop",
    "ColorJitter",
    "Compose",
    "Crop",
    "Cutout",
    "FeatureCorruption",
    "Flip",
    "GaussianBlur",
    "GaussianNoise",
    "QuarterTurns",
    "Rotation",
    "SimCLRAugmentation",
    "Sobel",
    "Solarize",
    "affine",
    "color_jitter",
    "gaussian_blur",
    "resized_crop",
]

_LARGEST_SHARP_SIDE = 32  # the paper does not blur CIFAR-10 (appendix B.9)


class SimCLRAugmentation(BaseEstimator):
    """Views of photographs as in the paper: crop, flip, colour jitter, greyscale, blur.

    Parameters are drawn separately for each sample, including the order of the colour operations.
    The results equal those of torchvision's functional operations with the same parameters.

    Parameters
    ----------
    crop_scale : tuple of (float, float), default=(0.08, 1.0)
        Smallest and largest share of the image's area that a crop covers, in (0, 1]. Its aspect
        ratio lies between 3/4 and 4/3.
    flip_p : float, default=0.5
        Probability of a horizontal flip.
    color_strength : float, default=0.5
        The paper's s, >= 0: brightness, contrast and saturation change by factors within
        ``1 ± 0.8 s``, the hue within ``± 0.2 s`` turns (at most half a turn). The paper uses 1 for
        ImageNet, 0.5 for CIFAR-10. Images without exactly 3 channels have no saturation and no hue.
    color_p : float, default=0.8
        Probability that a sample's colours change.
    grayscale_p : float, default=0.2
        Probability that a sample is converted to grey; only for images with 3 channels.
    blur_p : float, default=0.5
        Probability of a Gaussian blur with a sigma in [0.1, 2] pixels and a kernel of a tenth of
        the side. Views of at most 32 pixels per side are never blurred, as in the paper.
    size : int or None, default=None
        Side of the views in pixels; None: the height and width of the images.

    Notes
    -----
    Operations that do not apply to images without exactly 3 channels are skipped, and `fit` warns
    about them unless the augmentation was chosen by "auto".

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
        "flip_p": PROBABILITY,
        "color_strength": [Interval(Real, 0, None, closed="left")],
        "color_p": PROBABILITY,
        "grayscale_p": PROBABILITY,
        "blur_p": PROBABILITY,
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
            Images in [0, 1], or of uint8.
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
        check_range("crop_scale", self.crop_scale, self, upper=1)

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w)."""
        if shape[0] == 3:
            return []
        names = {
            "saturation and hue": self.color_strength * self.color_p,
            "grayscale": self.grayscale_p,
        }
        return [name for name, amount in names.items() if amount]

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each sample of a batch of shape (n, c, h, w)."""
        n, _, height, width = shape
        crops = draw_crops(n, height, width, self.crop_scale, CROP_RATIO, generator)
        flip = rand(n, generator) < self.flip_p
        jitter, order, factors = draw_color_jitter(n, self.color_strength, self.color_p, generator)
        return crops | {
            "flip": flip,
            "jitter": jitter,
            "order": order,
            "factors": factors,
            "grayscale": rand(n, generator) < self.grayscale_p,
            "blur": rand(n, generator) < self.blur_p,
            "sigma": uniform(n, 0.1, 2.0, generator),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        box = [params[key] for key in ("top", "left", "height", "width")]
        view = resized_crop(batch, *box, params["flip"], self.size or batch.shape[-2:])
        jitter_rows(view, params["jitter"], params["order"], params["factors"])
        if view.shape[1] == 3:
            update_rows(view, params["grayscale"], lambda rows: grayscale(rows).expand_as(rows))
        if max(view.shape[-2:]) > _LARGEST_SHARP_SIDE:
            blur_rows(view, params["blur"], params["sigma"])
        return view


class AffineAugmentation(BaseEstimator):
    """Views of digits, characters and textures: small affine maps and noise, no flip or colour.

    Parameters
    ----------
    degrees : float, default=15
        Largest rotation in either direction, in degrees, >= 0.
    translate : float, default=0.1
        Largest shift in either direction, as a share of the height and of the width, >= 0.
    scale : tuple of (float, float), default=(0.8, 1.2)
        Smallest and largest magnification, > 0.
    shear : float, default=10
        Largest shear along each axis in either direction, in degrees, in [0, 90).
    noise : float, default=0.1
        Standard deviation of the Gaussian noise added to pixels in [0, 1], >= 0.

    Notes
    -----
    Beyond its border the image repeats the border pixels. Interpolation is bilinear. The maps equal
    torchvision's ``affine`` with the same parameters wherever that stays inside the image.

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
        check_range("scale", self.scale, self, upper=math.inf)

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the parameters of one view of each sample of a batch of shape (n, c, h, w)."""
        n, _, height, width = shape
        reach = floats([width * self.translate, height * self.translate], generator)
        return {
            "angle": uniform(n, -self.degrees, self.degrees, generator),
            "translate": reach * uniform((n, 2), -1, 1, generator),  # pixels along x and y
            "scale": uniform(n, *self.scale, generator),
            "shear": uniform((n, 2), -self.shear, self.shear, generator),
            "noise": self.noise * randn(shape, generator),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        maps = {name: value for name, value in params.items() if name != "noise"}
        return affine(batch, **maps) + placed(params["noise"], batch.device).to(batch.dtype)


class FeatureCorruption(BaseEstimator):
    """Views of vectors as in SCARF: random features take the value of another sample.

    A share `rate` of each sample's features is replaced by draws from their empirical marginal
    distributions, that is, by the same feature of samples drawn at random from the batch, itself a
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
        """Draw which features of a batch of shape (n, d) are replaced, and from which samples."""
        n, d = shape
        n_corrupted = max(1, math.floor(self.rate * d + 1e-9))  # 0.7 * 90 is 62.99...
        return {
            "corrupted": rand(shape, generator).argsort(1) < n_corrupted,  # (n, d)
            "donor": torch.randint(n, shape, generator=generator, device=generator.device),
        }

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        corrupted, donor = (placed(params[name], batch.device) for name in ("corrupted", "donor"))
        return torch.where(corrupted, batch.gather(0, donor), batch)


def resolve_augmentation(augmentation, image_shape: tuple | None, view_size: int | None):
    """Turn the parameter `augmentation` into a callable; an augmentation object is copied.

    Warns about what a requested augmentation skips for images of this shape, (h, w, c).

    Raises
    ------
    ValueError
        If an option is out of range, or the augmentation is a class or made for other data.
    """
    is_auto = augmentation == "auto"
    if is_auto:
        augmentation = _auto_augmentation(image_shape)
    elif isinstance(augmentation, str):
        augmentation = {"simclr": SimCLRAugmentation, "scarf": FeatureCorruption}[augmentation]()
    elif isinstance(augmentation, type):
        raise ValueError(
            f"augmentation={augmentation!r} is a class; pass an object, {augmentation.__name__}()."
        )
    elif draws_params(augmentation):
        augmentation = clone(augmentation)
    else:
        return augmentation
    if hasattr(augmentation, "validate"):
        augmentation.validate()
    if any(
        isinstance(part, FeatureCorruption if image_shape else _FOR_IMAGES)
        for part in parts_of(augmentation)
    ):
        kind = "images" if image_shape else "vectors; pass image_shape if its rows are images"
        raise ValueError(f"augmentation={augmentation!r} does not suit X, which holds {kind}.")
    if getattr(augmentation, "size", 0) is None:
        augmentation.size = view_size
    if image_shape and not is_auto:
        _warn_of_skipped(augmentation, image_shape, view_size)
    return augmentation


def _warn_of_skipped(augmentation, image_shape: tuple, view_size: int | None) -> None:
    height, width, channels = image_shape
    if view_size and not makes_size(augmentation):  # it gets the images resized
        height = width = view_size
    skipped = skipped_by(augmentation, (channels, height, width))
    if skipped:
        warn_caller(
            f"The augmentation {type(augmentation).__name__} skips what does not apply to images "
            f"of (h, w, c) = {image_shape}: {'; '.join(skipped)}."
        )


_FOR_IMAGES = (SimCLRAugmentation, AffineAugmentation, Compose, ViewPart)


def _auto_augmentation(image_shape: tuple | None):
    if image_shape is None:
        return FeatureCorruption(0.4)  # for small tables the paper's 0.6 leaves too little
    return AffineAugmentation() if image_shape[2] == 1 else SimCLRAugmentation()


def mixes_samples(augmentation) -> bool:
    """Whether a view needs other samples of the batch."""
    return isinstance(augmentation, FeatureCorruption)


def makes_size(augmentation) -> bool:
    """Whether an augmentation has an option for the size of its views."""
    return draws_params(augmentation) and hasattr(augmentation, "size")


def takes_bytes(augmentation) -> bool:
    """Whether an augmentation begins with our own crop, which reads uint8 too, at less cost."""
    if type(augmentation) is Compose:
        return takes_bytes(augmentation.steps[0][1])
    return type(augmentation) in (SimCLRAugmentation, Crop)  # a subclass may do other things first
