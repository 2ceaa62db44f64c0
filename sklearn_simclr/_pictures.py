"""Pictures on matplotlib axes: their channels, grids, frames, thumbnails, the text beside them."""

from numbers import Integral

import numpy as np

COLORS = (  # ten that colour-blind people can tell apart: Petroff (2021), arXiv:2107.02270
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
NEUTRAL = "#c8c8c8"
_CELL, _GAP, _LINE = 0.9, 0.07, 0.17  # inches: width of a picture, space between, line of text
_CELL_RATIOS = 0.1, 3.0  # least and largest height / width of a cell
_PERCENTILES = 2, 98  # of the values of a channel whose contrast is stretched
_SMALL_SIDE = 96  # pixels up to which a picture is magnified in a cell


def require_matplotlib(caller: str) -> None:
    """Raise an ImportError that says how to get matplotlib if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} requires matplotlib. Install it with pip install matplotlib."
        ) from error


def verbatim(text: str) -> str:
    """Escape "$", so that matplotlib shows the text as it is instead of reading mathematics."""
    from matplotlib import rcParams

    return text.replace("$", r"\$") if rcParams["text.parse_math"] else text


def legend_label(name: str | None) -> str | None:
    """Return the label of an artist that a legend shows by this name; None without one.

    Legends leave out labels that start with "_", so a character without width goes before it.
    """
    if name is None:
        return None
    label = verbatim(str(name))
    return f"\u200b{label}" if label.startswith("_") else label


def check_channels(channels, n_channels: int) -> None:
    """Refuse a choice of channels that images of so many channels do not have."""
    if channels is None:
        return
    chosen = [channels] if np.ndim(channels) == 0 else channels
    if (
        not isinstance(chosen, list | tuple | np.ndarray)
        or len(chosen) not in (1, 3)
        or not all(isinstance(number, Integral) for number in chosen)
        or not all(0 <= number < n_channels for number in chosen)
    ):
        raise ValueError(
            f"channels={channels!r} must be the number of one channel, drawn in grey, or of three, "
            f"drawn as red, green and blue, from 0 to {n_channels - 1}."
        )


def contrast_limits(images: np.ndarray, channels=None) -> np.ndarray | None:
    """Return the values (2, k) that are black and white in pictures of images (n, h, w, c).

    None if they are grey or in colour. Of other images each channel is stretched by itself, since
    measured values often leave most of [0, 1] to a few extremes.
    """
    if images.shape[-1] in (1, 3):
        return None
    chosen = images[..., _chosen(channels, images.shape[-1])]
    return np.percentile(chosen, _PERCENTILES, axis=(0, 1, 2))


def to_pictures(images: np.ndarray, channels=None, limits: np.ndarray | None = None) -> np.ndarray:
    """Turn images (..., h, w, c) into pictures in [0, 1].

    They are grey, (..., h, w), or in colour, (..., h, w, 3). Without a choice of channels these are
    the first three, or the first if there are only two.
    """
    pictures = images[..., _chosen(channels, images.shape[-1])]
    if limits is not None:
        low, high = limits
        pictures = (pictures - low) / np.where(high > low, high - low, 1)
    pictures = pictures.clip(0, 1)
    return pictures if pictures.shape[-1] == 3 else pictures[..., 0]


def _chosen(channels, n_channels: int) -> np.ndarray:
    """Numbers of the channels that are drawn, one or three."""
    check_channels(channels, n_channels)
    if channels is None:
        channels = [0, 1, 2] if n_channels >= 3 else [0]
    return np.ravel(channels)


def picture_grid(
    ax,
    n_rows: int,
    n_columns: int,
    *,
    shape: tuple,
    n_lines: int,
    width: float = _CELL,
    gap: float = _GAP,
    margins: tuple = (0, 0),
):
    """Make axes for rows of pictures, the first of each row a little apart from the others.

    Parameters
    ----------
    ax : Axes, ndarray of Axes or None
        A subplot to fill, the axes of an earlier grid to use again, or None for a new figure.
    n_rows, n_columns : int
        Pictures below and beside each other.
    shape : tuple of (int, int)
        Height and width of the pictures, in any unit.
    n_lines : int
        Lines of text that each picture has above or below it.
    width : float
        Inches that a picture of a new figure is wide.
    gap : float
        Inches between the pictures.
    margins : tuple of (float, float), default=(0, 0)
        Inches to the left of a new figure's pictures and below them, for text.

    Returns
    -------
    ndarray of Axes of shape (n_rows, n_columns)

    Raises
    ------
    ValueError
        If `ax` cannot be filled, or are axes of another number.
    """
    if isinstance(ax, np.ndarray | list):
        return _used_again(np.asarray(ax, dtype=object), (n_rows, n_columns))
    ratio = float(np.clip(shape[0] / shape[1], *_CELL_RATIOS))
    # A narrow column without axes stands after the first one.
    widths = np.array([width, *([gap / 2] if n_columns > 1 else []), *[width] * (n_columns - 1)])
    height, between = width * ratio, gap + n_lines * _LINE
    spacing = {
        "width_ratios": widths,
        "wspace": gap / widths.mean(),
        "hspace": between / height,
    }
    left, bottom = margins[0] + gap, margins[1] + gap + max(0, n_lines - 1) * _LINE
    size = (
        left + widths.sum() + gap * len(widths),
        bottom + n_rows * height + (n_rows - 1) * between + _LINE + gap,
    )
    place = {"left": left / size[0], "right": 1 - gap / size[0]}
    place |= {"bottom": bottom / size[1], "top": 1 - (_LINE + gap) / size[1]}
    add_subplot = _subgrid(ax, n_rows, len(widths), spacing, size, place)
    columns = [number for number in range(len(widths)) if number != 1]
    return np.array(
        [[add_subplot(row, column) for column in columns] for row in range(n_rows)], dtype=object
    )


def _subgrid(ax, n_rows: int, n_columns: int, spacing: dict, size: tuple, place: dict):
    """Return a function that adds the subplot in a row and a column."""
    from matplotlib import pyplot as plt
    from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec

    if ax is None:
        figure = plt.figure(figsize=size)
        spec = GridSpec(n_rows, n_columns, figure, **place, **spacing)
    else:
        figure = ax.figure
        if figure.get_layout_engine() is not None:  # it makes room for the text itself
            spacing = spacing | {"hspace": spacing["wspace"]}
        spec = GridSpecFromSubplotSpec(n_rows, n_columns, subplot_spec=_free_subplot(ax), **spacing)
        ax.set_axis_off()
    return lambda row, column: figure.add_subplot(spec[row, column])


def _free_subplot(ax):
    """Return the place of a subplot that nothing is drawn on yet."""
    if not ax.axison:
        raise ValueError(
            "ax was filled by another plot already. Pass ax=display.axes_ to draw on its axes "
            "again."
        )
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            f"ax={ax!r} is no subplot, so that its place cannot be divided. Pass axes made by "
            "plt.subplots, or ax=None for a new figure."
        )
    return place


def _used_again(axes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if axes.shape != shape:
        raise ValueError(
            f"ax holds axes of shape {axes.shape}, but {shape} are needed: one for each picture. "
            "Pass a single subplot, or ax=None for a new figure."
        )
    for ax in axes.flat:
        ax.clear()
    return axes


def show_picture(ax, picture: np.ndarray, im_kw: dict | None = None, **defaults):
    """Draw a picture without ticks and with a hairline around it; return the image artist.

    `im_kw` overrides `defaults`, which override the settings for pictures in [0, 1].
    """
    small = max(picture.shape[:2]) <= _SMALL_SIDE
    defaults = {
        "cmap": "gray",
        "vmin": 0,
        "vmax": 1,
        # Of small pictures every pixel is seen as it is; large ones have to be averaged.
        "interpolation": "nearest" if small else "antialiased",
    } | defaults
    im_kw = im_kw or {}
    if im_kw.get("norm") is not None:  # it has limits of its own
        del defaults["vmin"], defaults["vmax"]
    image = ax.imshow(picture, **defaults | im_kw)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(linewidth=0.5, edgecolor="0.6")
    return image


def put_frame(ax, color: str, extent: tuple | None = None) -> None:
    """Put a coloured frame around a picture, without covering any of it.

    `extent` is where the picture is, (left, right, bottom, top) in data coordinates; None: it fills
    the axes.
    """
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent or (0, 1, 0, 1)
    frame = Rectangle(
        (left, bottom),
        right - left,
        top - bottom,
        fill=False,
        edgecolor=color,
        linewidth=5.5 if extent is None else 3,
        clip_on=False,
        zorder=-1 if extent is None else 2.5,  # below the picture
    )
    if extent is None:
        frame.set_transform(ax.transAxes)
    ax.add_patch(frame)


def standing_apart(positions: np.ndarray, width: float, height: float) -> np.ndarray:
    """Choose points whose boxes of one size do not overlap, earlier ones first.

    Parameters
    ----------
    positions : ndarray of shape (n, 2)
        Centres of the boxes.
    width, height : float
        Size of a box.

    Returns
    -------
    ndarray of shape (k,)
        Numbers of the chosen points, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr._pictures import standing_apart
    >>> standing_apart(np.array([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]), width=1, height=1)
    array([0, 2])
    """
    chosen: list[int] = []
    for number, position in enumerate(positions):
        apart = np.abs(positions[chosen] - position) >= (width, height)
        if apart.any(axis=1).all():
            chosen.append(number)
    return np.array(chosen, dtype=np.int64)
