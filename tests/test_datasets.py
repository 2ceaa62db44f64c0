"""Lists of image files from folders."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_files

from sklearn_simclr.datasets import load_image_paths


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
        (["cats/a.png"], {"categories": []}, "holds no images"),
    ],
)
def test_nothing_to_list(tmp_path, files, options, match):
    fill(tmp_path, *files)
    with pytest.raises(ValueError, match=match):
        load_image_paths(tmp_path, **options)


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
