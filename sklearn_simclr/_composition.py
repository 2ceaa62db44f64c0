"""Several augmentations of images, applied in sequence; what an augmentation is."""

from collections.abc import Iterator

from sklearn.utils.metaestimators import _BaseComposition
from torch import Generator, Tensor, nn


class Compose(_BaseComposition):
    """Views made by several augmentations of images, applied in sequence.

    Parameters
    ----------
    steps : list of (str, augmentation object)
        Names and augmentations, as in scikit-learn's ``Pipeline``: parts such as `Crop` and
        `ColorJitter`, whole augmentations of images such as `AffineAugmentation`, other
        compositions, or your own objects with the same methods. A grid search can set an option of
        a step by the step's name, ``jitter__strength``, or replace the step, ``jitter``.

    Notes
    -----
    Each step draws its own parameters for each sample. Your own steps must draw from the generator
    that they are given, and may change the size of the images only by an option `size`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import ColorJitter, Compose, Crop, Sobel
    >>> augmentation = Compose(
    ...     [("crop", Crop(size=24)), ("jitter", ColorJitter()), ("edges", Sobel(p=0.2))]
    ... )
    >>> augmentation.set_params(jitter__strength=1.0, crop__scale=(0.3, 1.0))
    Compose(steps=[('crop', Crop(scale=(0.3, 1.0), size=24)),
                   ('jitter', ColorJitter(strength=1.0)), ('edges', Sobel(p=0.2))])
    >>> augmentation(torch.rand(10, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([10, 3, 24, 24])
    """

    _parameter_constraints: dict = {"steps": [list]}

    def __init__(self, steps):
        self.steps = steps

    def get_params(self, deep=True):
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the steps, by name, and their parameters.

        Returns
        -------
        dict
            Parameter names mapped to their values.
        """
        return self._get_params("steps", deep=deep)

    def set_params(self, **params):
        """Set parameters, steps or parameters of steps.

        Parameters
        ----------
        **params
            Values by the names that `get_params` returns.

        Returns
        -------
        Compose
            This object.
        """
        return self._set_params("steps", **params)

    @property
    def size(self) -> int | None:
        """Side of the views: the `size` of the last step that has one; absent if none has."""
        return self._last_sized_step().size

    @size.setter
    def size(self, size: int | None) -> None:
        self._last_sized_step().size = size

    def _last_sized_step(self):
        for _, step in reversed(self.steps):
            if hasattr(step, "size"):
                return step
        raise AttributeError(f"No step of {self!r} has a size.")

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
            Views.
        """
        return self.apply(batch, self.make_params(batch.shape, generator))

    def validate(self) -> None:
        """Raise a ValueError that names the first step and parameter out of range."""
        self._validate_params()
        self._check_steps()
        for name, step in self.steps:
            try:
                if hasattr(step, "validate"):
                    step.validate()
            except ValueError as error:
                raise ValueError(f"In step {name!r} of Compose: {error}") from error

    def _check_steps(self) -> None:
        must = "The 'steps' parameter of Compose must be a list of (name, augmentation) pairs"
        if not self.steps:
            raise ValueError(f"{must}, at least one. Got {self.steps!r} instead.")
        for entry in self.steps:
            if not _is_step(entry):
                raise ValueError(f"{must}, such as ('flip', Flip()). Got {entry!r} among them.")
        try:
            self._validate_names([name for name, _ in self.steps])
        except ValueError as error:
            raise ValueError(f"{must} with names that a grid search can use. {error}.") from error

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w), and in which step."""
        names = []
        for name, step in self.steps:
            names += [f"step {name!r}: {what}" for what in skipped_by(step, shape)]
            shape = _shape_after(step, shape)
        return names

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, dict]:
        """Draw the parameters of one view of each sample of a batch of shape (n, c, h, w)."""
        params = {}
        for name, step in self.steps:
            params[name] = step.make_params(shape, generator)
            shape = _shape_after(step, shape)
        return params

    def apply(self, batch: Tensor, params: dict[str, dict]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        for name, step in self.steps:
            batch = step.apply(batch, params[name])
        return batch


def skipped_by(augmentation, shape: tuple[int, int, int]) -> list[str]:
    """List what any augmentation skips for images of shape (c, h, w)."""
    return augmentation.skipped(shape) if hasattr(augmentation, "skipped") else []


def parts_of(augmentation) -> Iterator:
    """Yield an augmentation and, if it is a composition, all its parts."""
    yield augmentation
    if isinstance(augmentation, Compose):
        for _, step in augmentation.steps:
            yield from parts_of(step)


def draws_params(augmentation) -> bool:
    """Whether an augmentation is an object that draws parameters, rather than any callable.

    torchvision's transforms are modules, some with methods of the same names for other purposes.
    """
    has_methods = hasattr(augmentation, "make_params") and hasattr(augmentation, "apply")
    return has_methods and not isinstance(augmentation, nn.Module)


def is_our_own(thing) -> bool:
    """Whether an object and all its parts are from this package."""
    return all(type(part).__module__.startswith("sklearn_simclr.") for part in parts_of(thing))


def _is_step(entry) -> bool:
    if not isinstance(entry, tuple | list) or len(entry) != 2:
        return False
    name, step = entry
    return isinstance(name, str) and draws_params(step) and not isinstance(step, type)


def _shape_after(step, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape (..., h, w) of the images that a step makes of images of the given shape."""
    if isinstance(step, Compose):
        for _, part in step.steps:
            shape = _shape_after(part, shape)
        return shape
    size = getattr(step, "size", None)
    return (*shape[:-2], size, size) if size else shape
