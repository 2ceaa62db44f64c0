"""Lists of image files from folders, and images that are made up."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_files
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifier

from sklearn_simclr.datasets import _SHAPES, load_image_paths, make_shapes


def fill(root, *names):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image: nothing is decoded here")


def names_of(bunch, root):
    return [Path(path).relative_to(root).as_posix() for path in bunch.data]


@pytest.fixture
def root(tmp_path):
    fill(
        tmp_path,
        "dogs/b.png",
        "dogs/a.JPG",
        "cats/10.jpeg",
        "cats/2.webp",
        "cats/persian/deep/1.tif",
        "birds/x.gif",
        # not to be listed
        "beside.png",
        ".hidden/a.png",
        "cats/.hidden.png",
        "cats/.thumbs/a.png",
        "cats/notes.txt",
        "cats/png",
        "cats/a.png.part",
        "dogs/Thumbs.db",
        "empty/notes.txt",
    )
    return tmp_path


def test_a_folder_is_a_class(root):
    found = load_image_paths(root)
    assert names_of(found, root) == [
        "birds/x.gif",
        "cats/10.jpeg",
        "cats/2.webp",
        "cats/persian/deep/1.tif",
        "dogs/a.JPG",
        "dogs/b.png",
    ]
    assert found.target.tolist() == [0, 1, 1, 1, 2, 2]
    assert found.target_names == ["birds", "cats", "dogs", "empty"]
    assert found.data.dtype.kind == "U" and found.target.dtype.kind == "i"


@pytest.mark.parametrize("kind", [str, Path, os.fsencode], ids=["str", "Path", "bytes"])
def test_kinds_of_root(root, kind):
    if kind is os.fsencode:
        with pytest.raises(TypeError):
            load_image_paths(kind(root))
        return
    assert len(load_image_paths(kind(root)).data) == 6
    assert load_image_paths(kind(root)).data[0].startswith(str(root))


def test_categories(root):
    found = load_image_paths(root, categories=iter(["dogs", "birds"]))
    assert names_of(found, root) == ["birds/x.gif", "dogs/a.JPG", "dogs/b.png"]
    assert found.target_names == ["birds", "dogs"]
    assert found.target.tolist() == [0, 1, 1]


def test_shuffle_keeps_paths_and_labels_together(root):
    plain = load_image_paths(root)
    label = dict(zip(plain.data, plain.target, strict=True))
    shuffled = [load_image_paths(root, shuffle=True, random_state=seed) for seed in (0, 0, 1, 2)]
    for found in shuffled:
        assert sorted(found.data) == sorted(plain.data)
        assert [label[path] for path in found.data] == found.target.tolist()
    assert shuffled[0].data.tolist() == shuffled[1].data.tolist()
    assert len({tuple(found.data) for found in shuffled}) > 1


def test_a_folder_of_images_has_no_labels(tmp_path):
    fill(tmp_path, "b.png", "a.jpg", ".c.jpg", "notes.txt")
    found = load_image_paths(tmp_path)
    assert names_of(found, tmp_path) == ["a.jpg", "b.png"]
    assert found.target.tolist() == [-1, -1]
    assert found.target_names == []


def test_links_to_folders_within_a_class_are_not_followed(tmp_path):
    fill(tmp_path, "cats/a.png")
    (tmp_path / "cats" / "again").symlink_to(tmp_path / "cats", target_is_directory=True)
    assert names_of(load_image_paths(tmp_path), tmp_path) == ["cats/a.png"]


@pytest.mark.parametrize(
    ("files", "options", "match"),
    [
        ([], {}, "holds no images"),
        (["cats/notes.txt"], {}, r"holds no images.*\.jpg"),
        (["cats/a.png"], {"categories": ["dogs"]}, r"categories=\['dogs'\].*\['cats'\]"),
        (["cats/a.png"], {"categories": "cats"}, "must be a list"),
        (["cats/a.png"], {"categories": []}, r"categories=\[\].*None"),
    ],
)
def test_nothing_to_list(tmp_path, files, options, match):
    fill(tmp_path, *files)
    with pytest.raises(ValueError, match=match):
        load_image_paths(tmp_path, **options)


@pytest.mark.parametrize("name", ["cats", "cats/persian"])
def test_a_folder_that_cannot_be_read(root, name, monkeypatch):
    scan = os.scandir

    def forbidden(path):
        if Path(path) == root / name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match=rf"{name}'$"):
        load_image_paths(root)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"root='.*gone' is not a folder"):
        load_image_paths(tmp_path / "gone")


def test_labels_are_those_of_load_files(root):
    # scikit-learn lists only what lies in the folders directly, hidden or not.
    for name in ("cats/persian", "cats/.thumbs"):
        for path in sorted((root / name).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (root / name).rmdir()
    (root / "cats" / ".hidden.png").unlink()
    categories = ["birds", "cats", "dogs"]
    expected = load_files(
        root, categories=categories, load_content=False, shuffle=False,
        allowed_extensions=[".png", ".JPG", ".jpeg", ".webp", ".gif"],
    )  # fmt: skip
    found = load_image_paths(root, categories=categories)
    assert dict(zip(found.data, found.target, strict=True)) == dict(
        zip(expected.filenames, expected.target, strict=True)
    )
    assert found.target_names == list(expected.target_names)


def test_from_a_folder_to_features(simclr, photos, tmp_path):
    images, labels = photos
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / ("blue" if label else "red") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    found = load_image_paths(tmp_path)
    assert found.target_names == ["blue", "red"]
    order = np.argsort(-labels, kind="stable")
    features = simclr().fit(images[order]).transform(images[order])
    np.testing.assert_array_equal(simclr().fit(found.data).transform(found.data), features)


@pytest.mark.parametrize("image_size", [8, 33])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n_samples", [1, 7, 300])
def test_shapes_and_types_of_made_images(n_samples, channels, image_size):
    X, y = make_shapes(n_samples, image_size=image_size, channels=channels, random_state=0)
    assert X.shape == (n_samples, image_size, image_size) + ((3,) if channels == 3 else ())
    assert X.dtype == np.uint8
    assert y.shape == (n_samples,) and y.dtype.kind == "i"
    counts = np.bincount(y, minlength=6)
    assert len(counts) == 6 and counts.max() - counts.min() <= 1


def test_made_images_are_a_function_of_the_seed():
    state = np.random.get_state()[1].copy()
    X, y = make_shapes(300, random_state=0)
    again, labels = make_shapes(300, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(again, X)
    np.testing.assert_array_equal(labels, y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    others, _ = make_shapes(300, random_state=1)
    assert (others != X).any(axis=(1, 2, 3)).all()
    assert len({image.tobytes() for image in X}) == 300  # of several blocks, too


@pytest.mark.parametrize(
    "options",
    [
        {"n_samples": 0},
        {"n_samples": 2.5},
        {"image_size": 7},
        {"channels": 2},
        {"channels": "3"},
        {"random_state": "seed"},
    ],
    ids=str,
)
def test_made_images_with_options_out_of_range(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"The '{name}' parameter of make_shapes must be"):
        make_shapes(**options)


def corners_of(shape):
    """Corners (k, 2) of the polygon, counter-clockwise."""
    if shape == "cross":
        arm = np.array([[0.32, 0.32], [0.32, 0.95], [-0.32, 0.95]])
        quarter_turn = np.array([[0, -1], [1, 0]])
        turns = [np.linalg.matrix_power(quarter_turn, k) for k in range(4)]
        return np.concatenate([arm @ turn.T for turn in turns])
    n = {"square": 4, "triangle": 3, "star": 10}[shape]
    angle = 2 * np.pi * np.arange(n) / n
    radius = np.where(np.arange(n) % 2, 0.4, 1.0) if shape == "star" else np.ones(n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def is_inside(points, corners):
    """Whether points (n, 2) lie in a polygon, by the number of sides that a ray crosses."""
    crossed = np.zeros(len(points), int)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        level = (y1 > points[:, 1]) != (y2 > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = x1 + (points[:, 1] - y1) * (x2 - x1) / (y2 - y1)
        crossed += level & (points[:, 0] < at)
    return crossed % 2 == 1


@pytest.mark.parametrize("shape", list(_SHAPES))
def test_outlines(shape):
    points = np.random.default_rng(0).uniform(-1.1, 1.1, (20_000, 2))
    distance = _SHAPES[shape][0](*points.T)
    radius = np.linalg.norm(points, axis=1)
    if shape == "disc":
        expected = radius < 0.9
    elif shape == "ring":
        expected = (radius > 0.5) & (radius < 1)
    else:
        expected = is_inside(points, corners_of(shape))
    assert (radius[distance < 0] <= 1.01).all()  # so that no shape is cut off by the image
    np.testing.assert_array_equal(distance < 0, expected)


def test_distances_are_in_units_of_the_radius():
    # A side of the square lies at cos(45 degrees) from the middle, one of the triangle at 1/2.
    square, triangle = _SHAPES["square"][0], _SHAPES["triangle"][0]
    t = np.linspace(0.2, 0.9, 8)
    np.testing.assert_allclose(square(t, t), np.sqrt(2) * t - np.sqrt(0.5), atol=1e-12)
    np.testing.assert_allclose(triangle(-t, 0 * t), t - 0.5, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_are_in_the_images_and_not_in_single_pixels(channels):
    X, y = make_shapes(900, channels=channels, random_state=0)
    grey = X.reshape(900, 32, 32, channels).mean(axis=3) / 255
    # What place and turn do not change: how sharp the edges are, how bright the pixels.
    edges = np.hypot(np.diff(grey, axis=1)[:, :, :-1], np.diff(grey, axis=2)[:, :-1])
    shares = np.linspace(0, 1, 21)
    h = np.concatenate(
        [np.quantile(values.reshape(900, -1), shares, axis=1).T for values in (edges, grey)], axis=1
    )
    forest = RandomForestClassifier(100, random_state=0).fit(h[:600], y[:600])
    assert forest.score(h[600:], y[600:]) > 0.6
    pixels = grey.reshape(900, -1)
    linear = RidgeClassifier().fit(pixels[:600], y[:600])
    assert linear.score(pixels[600:], y[600:]) < 0.35


def test_shapes_stand_anywhere_and_are_not_cut_off():
    # Stripes are where the image changes most; a cross is 0.95 of a radius of at least 0.28 long.
    X, y = make_shapes(600, channels=1, image_size=64, random_state=0)
    crosses = X[y == list(_SHAPES).index("cross")] / 255
    steps = np.abs(np.diff(crosses, axis=2))
    border = np.concatenate([steps[:, :2].reshape(100, -1), steps[:, -2:].reshape(100, -1)], axis=1)
    assert np.median(border) < 0.05 < np.median(steps.max(axis=(1, 2))) / 5
    assert np.median(border.max(axis=1)) < 0.15  # no stripes there
    weight = steps.sum(axis=1) ** 2  # (n, 63): of each column
    middle = (weight * np.arange(63)).sum(axis=1) / weight.sum(axis=1)
    assert middle.min() < 25 and middle.max() > 38 and abs(middle.mean() - 31) < 4
