"""Lists of image files, for X."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

__all__ = ["load_image_paths"]

# What `SimCLRTransformer` reads.
_SUFFIXES = frozenset(
    ".bmp .gif .jfif .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)


def load_image_paths(
    root: str | os.PathLike,
    *,
    categories: Iterable[str] | None = None,
    shuffle: bool = False,
    random_state=None,
) -> Bunch:
    """List the image files in the folders of a folder, one folder a class.

    Nothing is decoded: `data` is what :class:`~sklearn_simclr.SimCLRTransformer` takes as X. Of a
    folder without folders in it, its own images are listed, without labels.

    Parameters
    ----------
    root : str or Path
        The folder. Images in ``root/cats`` and in folders below that are of the class "cats".
    categories : iterable of str, default=None
        Names of the folders to list; None: all of them. Others, and images beside the folders, are
        left out.
    shuffle : bool, default=False
        Whether to shuffle the files, which otherwise come in the order of their paths.
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.

    Returns
    -------
    Bunch
        With the attributes

        data : ndarray of shape (n,)
            Paths, each starting with `root`, as str.
        target : ndarray of shape (n,)
            Numbers of the classes; -1, no label, if `root` holds no folders.
        target_names : list of str
            Names of the classes, sorted.

    Raises
    ------
    ValueError
        If `root` is not a folder, a category is not in it, or there are no images.

    See Also
    --------
    sklearn.datasets.load_files : The same for text files, which it reads.

    Notes
    -----
    Images are told by the ends of their names: .bmp, .gif, .jpg, .jpeg, .jpe, .jfif, .pbm, .pgm,
    .pnm, .png, .ppm, .tif, .tiff and .webp, in small letters or capitals. Files and folders whose
    names start with a dot are left out, and so are links to folders within a class.

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
            f"root={str(root)!r} holds no images, neither in folders nor, without any, directly. "
            f"Looked for names that end in {', '.join(sorted(_SUFFIXES))}."
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
    missing = [name for name in categories if name not in folders]
    if missing:
        raise ValueError(
            f"categories={missing!r} are not among the folders of root={str(root)!r}: {folders!r}."
        )
    return categories


def _images_below(folder: Path) -> list[str]:
    """Paths of the images in a folder and in those below it, sorted."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _is_shown(name)]  # where the walk goes on
        found += [os.path.join(parent, name) for name in files if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return _is_shown(name) and os.path.splitext(name)[1].lower() in _SUFFIXES


def _is_shown(name: str) -> bool:
    return not name.startswith(".")
