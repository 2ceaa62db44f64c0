"""Images to learn from: lists of image files, and synthetic images."""

import os
from collections.abc import Iterable
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, Options, validate_params

__all__ = ["load_image_paths", "make_shapes"]

# File extensions that `SimCLRTransformer` reads.
_SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)

_BLOCK = 256  # images that are drawn at a time, so that many take little memory
_N_PATCHES = 4  # of a background


def load_image_paths(
    root: str | os.PathLike,
    *,
    categories: Iterable[str] | None = None,
    shuffle: bool = False,
    random_state=None,
) -> Bunch:
    """List the image files in the subfolders of a folder, one subfolder per class.

    Nothing is decoded: `data` is what :class:`~sklearn_simclr.SimCLRTransformer` accepts as X. If
    the folder has no subfolders, the images in it are listed, without labels.

    Parameters
    ----------
    root : str or Path
        The folder. Images in ``root/cats`` and in folders below it are of the class "cats".
    categories : iterable of str, default=None
        Names of the subfolders to list; None: all of them. Others, and images next to the
        subfolders, are left out.
    shuffle : bool, default=False
        Whether to shuffle the files, which are otherwise in the order of their paths.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.

    Returns
    -------
    Bunch
        With the attributes

        data : ndarray of shape (n,)
            Paths, each starting with `root`, as str.
        target : ndarray of shape (n,)
            Numbers of the classes; -1, no label, if `root` has no subfolders.
        target_names : list of str
            Names of the classes, sorted.

    Raises
    ------
    ValueError
        If `root` is not a folder, `categories` is empty or names a subfolder that does not exist,
        or there are no images.
    OSError
        If a folder cannot be read.

    Notes
    -----
    Images are recognised by their extensions: .bmp, .gif, .jpg, .jpeg, .jpe, .jfif, .pbm, .pgm,
    .pnm, .png, .ppm, .tif, .tiff and .webp, in lower or upper case. Files and folders whose names
    start with a dot are left out, and so are links to folders within a class.
    ``sklearn.datasets.load_files`` does the same for text files, which it reads.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_simclr.datasets import load_image_paths
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ["cats/1.jpg", "cats/2.jpg", "dogs/1.png", "dogs/notes.txt"]:
    ...         path = Path(root, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     photos = load_image_paths(root)
    >>> [Path(path).name for path in photos.data]
    ['1.jpg', '2.jpg', '1.png']
    >>> photos.target, photos.target_names
    (array([0, 0, 1]), ['cats', 'dogs'])
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder.")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and _is_shown(path.name))
    names = _choose(folders, categories, root)
    paths, target = [], []
    for number, name in enumerate(names):
        found = _images_below(root / name)
        paths += found
        target += [number] * len(found)
    if not folders:
        paths = sorted(str(path) for path in root.iterdir() if _is_image(path.name))
        target = [-1] * len(paths)
    if not paths:
        raise ValueError(
            f"root={str(root)!r} holds no images, neither in subfolders nor, if there are none, "
            f"directly. Looked for names that end in {', '.join(sorted(_SUFFIXES))}."
        )
    data, target = np.array(paths), np.array(target)
    if shuffle:
        order = check_random_state(random_state).permutation(len(data))
        data, target = data[order], target[order]
    return Bunch(data=data, target=target, target_names=names)


def _choose(folders: list[str], categories: Iterable[str] | None, root: Path) -> list[str]:
    """Return the names of the classes, sorted."""
    if categories is None:
        return folders
    if isinstance(categories, str):
        raise ValueError(f"categories={categories!r} must be a list of names, not a single one.")
    categories = sorted(set(categories))
    if not categories:
        raise ValueError("categories=[] names no folder. Pass None to list all of them.")
    missing = [name for name in categories if name not in folders]
    if missing:
        raise ValueError(
            f"categories={missing!r} are not among the folders of root={str(root)!r}: {folders!r}."
        )
    return categories


def _images_below(folder: Path) -> list[str]:
    """Paths of the images in a folder and in those below it, sorted."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if _is_shown(name)]  # where the walk continues
        found += [os.path.join(parent, name) for name in files if _is_image(name)]
    return sorted(found, key=lambda path: path.replace(os.sep, "/"))  # the same on all systems


def _refuse(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    return _is_shown(name) and os.path.splitext(name)[1].lower() in _SUFFIXES


def _is_shown(name: str) -> bool:
    return not name.startswith(".")


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "image_size": [Interval(Integral, 8, None, closed="left")],
        "channels": [Options(Integral, {1, 3})],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_shapes(n_samples=1000, *, image_size=32, channels=3, random_state=None):
    """Generate images that are somewhat like photographs, each of one shape on a background.

    There are six classes: cross, disc, ring, square, star and triangle, in this order, each with
    its own surface (stripes, checks, rings, plain, a grid, shading). Position, size, rotation and
    colours of the shape are random, and so are the patches, the texture and the colours of the
    background, the light and the noise. So single pixels reveal next to nothing about the class.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of images, >= 1.
    image_size : int, default=32
        Height and width in pixels, >= 8. Shapes and surfaces grow with it; below 24 or so the
        surfaces are too fine to be seen.
    channels : {1, 3}, default=3
        3 for colour, 1 for grey.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random.

    Returns
    -------
    X : ndarray of shape (n_samples, h, w, 3) or (n_samples, h, w)
        The images, uint8, h and w being `image_size`; grey ones have no channel axis.
    y : ndarray of shape (n_samples,)
        The classes, 0 to 5, in random order. Their numbers of images differ by at most one.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    See Also
    --------
    load_image_paths : List your own photographs.

    Notes
    -----
    1000 images of 32 pixels per side take a fifth of a second.

    Examples
    --------
    >>> from sklearn_simclr.datasets import make_shapes
    >>> X, y = make_shapes(12, random_state=0)
    >>> X.shape, X.dtype
    ((12, 32, 32, 3), dtype('uint8'))
    >>> sorted(y.tolist())
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    >>> make_shapes(12, channels=1, random_state=0)[0].shape
    (12, 32, 32)
    """
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_samples) % len(_SHAPES))
    X = np.empty((n_samples, image_size, image_size, channels), np.uint8)
    for rows in gen_batches(n_samples, _BLOCK):
        X[rows] = _draw(y[rows], image_size, channels, rng)
    return (X if channels == 3 else X[..., 0]), y


def _draw(labels: np.ndarray, size: int, channels: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw an image for each of the labels, (n, size, size, channels), with pixels in 0..255."""
    n = len(labels)
    pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = pixels[None, :], pixels[:, None]  # the image is 1 wide and high
    level = _uniform(rng, 0.2, 0.8, n, 1, 1, 1)
    other_level = (level + _uniform(rng, 0.3, 0.7, n, 1, 1, 1)) % 1
    ground = _background(_tinted(rng, level, 0.15, channels), x, y, rng)

    radius, turn = _uniform(rng, 0.28, 0.42, n, 1, 1), _uniform(rng, 0, 2 * np.pi, n, 1, 1)
    across, down = (
        (axis - radius - _uniform(rng, 0, 1, n, 1, 1) * (1 - 2 * radius)) / radius
        for axis in (x, y)
    )  # (n, size, size) each, from the middle of the shape, whose radius is 1
    u = np.cos(turn) * across + np.sin(turn) * down
    v = np.cos(turn) * down - np.sin(turn) * across
    frequency = np.pi * radius / _uniform(rng, 0.07, 0.095, n, 1, 1)
    distance, pattern = np.empty_like(u), np.empty_like(u)
    for label, (outline, surface) in enumerate(_SHAPES.values()):
        rows = labels == label
        distance[rows] = outline(u[rows], v[rows])
        pattern[rows] = surface(frequency[rows] * u[rows], frequency[rows] * v[rows])
    colour = _tinted(rng, other_level, 0.25, channels)
    colour = colour + np.where(colour > 0.5, -0.45, 0.45) * pattern[..., None]
    cover = np.clip(0.5 - distance * radius * size, 0, 1)[..., None]  # edges of one pixel

    slope = _uniform(rng, -0.4, 0.4, 2, n, 1, 1)
    light = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    images = (ground + cover * (colour - ground)) * light[..., None]
    images += 0.02 * rng.standard_normal(images.shape)
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


def _background(
    colour: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Draw patches of about one colour, (n, 1, 1, c), and a fine grating over them."""
    n, channels = len(colour), colour.shape[-1]
    centre_x, centre_y = _uniform(rng, 0, 1, 2, n, _N_PATCHES, 1, 1)
    nearest = ((x - centre_x) ** 2 + (y - centre_y) ** 2).argmin(axis=1)  # (n, h, w)
    colours = colour[:, 0] + _uniform(rng, -0.06, 0.06, n, _N_PATCHES, channels)
    patches = colours[np.arange(n)[:, None, None], nearest]  # (n, h, w, c)
    frequency, turn, phase = (
        _uniform(rng, *limits, n, 1, 1) for limits in ((3, 8), (0, np.pi), (0, 2 * np.pi))
    )
    waves = np.sin(2 * np.pi * frequency * (np.cos(turn) * x + np.sin(turn) * y) + phase)
    return patches + (_uniform(rng, 0, 0.03, n, 1, 1) * waves)[..., None]


def _tinted(
    rng: np.random.RandomState, level: np.ndarray, chroma: float, channels: int
) -> np.ndarray:
    """Make colours (n, 1, 1, channels) of greys (n, 1, 1, 1); with one channel these stay."""
    if channels == 1:
        return level
    return level + _uniform(rng, -chroma, chroma, len(level), 1, 1, channels)


def _uniform(rng: np.random.RandomState, low: float, high: float, *shape: int) -> np.ndarray:
    return rng.uniform(low, high, shape).astype(np.float32)


def _star(u: np.ndarray, v: np.ndarray, corners: int, inner: float) -> np.ndarray:
    """Signed distance from a star whose corners are 1, its notches `inner` from the middle.

    Exact within the sector of the nearest side, which is all that a soft edge needs. With
    ``inner=cos(pi / corners)`` it is the regular polygon.
    """
    half = np.pi / corners
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    angle = np.abs((angle + half) % (2 * half) - half)  # fold all sectors onto half of one
    side_u, side_v = inner * np.cos(half) - 1, inner * np.sin(half)  # from corner to notch
    ahead, beside = radius * np.cos(angle) - 1, radius * np.sin(angle)
    return (side_v * ahead - side_u * beside) / np.hypot(side_u, side_v)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance, by the larger coordinate, from a cross with arms a third as wide as long."""
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.95, v - 0.32), np.maximum(v - 0.95, u - 0.32))


# Outline and surface of each class. The outline is a distance, negative inside a shape of radius 1,
# the surface a pattern in [-1, 1] whose half period is pi.
_SHAPES = {
    "cross": (_cross, lambda u, v: np.sin(u)),
    "disc": (lambda u, v: np.hypot(u, v) - 0.9, lambda u, v: np.sin(u) * np.sin(v)),
    "ring": (
        lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.25,
        lambda u, v: np.sin(np.hypot(u, v)),
    ),
    "square": (
        partial(_star, corners=4, inner=np.cos(np.pi / 4)),
        lambda u, v: np.zeros_like(u),
    ),
    "star": (
        partial(_star, corners=5, inner=0.4),
        lambda u, v: np.maximum(np.sin(u), np.sin(v)),
    ),
    "triangle": (partial(_star, corners=3, inner=0.5), lambda u, v: np.sin(u / 8)),
}
