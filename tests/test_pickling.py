"""Fitted models through pickle, joblib, skops, copy: the same features, and plain state only."""

import copy
import pickle
import subprocess
import sys
import types
import warnings
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation, SimCLRAugmentation
from sklearn_simclr.encoders import MLPEncoder, ResNetEncoder, TorchvisionEncoder

GOLDEN = sorted(Path(__file__).with_name("golden").glob("*.pkl"))


def factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))


MODELS = {
    "digits": {},
    "resnet": {"encoder": ResNetEncoder(width=0.03), "augmentation": SimCLRAugmentation()},
    "mlp": {"encoder": "mlp", "optimizer": "lars", "projection_layers": 3},
    "factory": {"encoder": factory},
    "module": {"encoder": factory(), "augmentation": AffineAugmentation(noise=0.2)},
    "explicit device": {"device": "cpu", "image_size": 9},
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def params(request):
    return request.param


@pytest.fixture
def fitted(simclr, digits, params):
    return simclr(**params).fit(digits[0])


def through_skops(model):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    assert all(name.startswith("sklearn_simclr.") for name in untrusted), untrusted
    return skops.loads(data, trusted=untrusted)


def through_joblib(model, compress, folder):
    joblib.dump(model, folder / "model.joblib", compress=compress)
    return joblib.load(folder / "model.joblib")


WAYS = {
    **{
        f"pickle {protocol}": lambda model, _, protocol=protocol: pickle.loads(
            pickle.dumps(model, protocol)
        )
        for protocol in (2, 4, 5)
    },
    "joblib": lambda model, folder: through_joblib(model, 0, folder),
    "compressed joblib": lambda model, folder: through_joblib(model, 3, folder),
    "memory-mapped joblib": lambda model, folder: (
        joblib.dump(model, folder / "model"),
        joblib.load(folder / "model", mmap_mode="r"),
    )[1],
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "copy": lambda model, _: copy.copy(model),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@ways
def test_features_score_and_training_survive(fitted, digits, way, tmp_path):
    images, _ = digits
    features, score = fitted.transform(images), fitted.score(images)
    loaded = way(fitted, tmp_path)
    assert_array_equal(loaded.transform(images), features)
    assert loaded.score(images) == score
    loaded.partial_fit(images)
    assert loaded.n_iter_ == 3
    assert_array_equal(fitted.transform(images), features)  # the original is its own


@pytest.mark.parametrize("name", ["digits", "resnet", "mlp", "explicit device"])
def test_skops_needs_to_trust_the_classes_of_this_package_only(simclr, digits, name):
    images, _ = digits
    model = simclr(**MODELS[name]).fit(images)
    assert_array_equal(through_skops(model).transform(images), model.transform(images))
    model.partial_fit(images)
    loaded = through_skops(model)
    assert_array_equal(
        loaded.partial_fit(images).transform(images), model.partial_fit(images).transform(images)
    )


@pytest.mark.parametrize("way", [clone, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_unfitted_models_travel_too(simclr, digits, params, way):
    images, _ = digits
    expected = simclr(**params).fit(images)
    travelled = way(simclr(**params))
    with pytest.raises(NotFittedError):
        travelled.transform(images)
    assert_array_equal(travelled.fit(images).transform(images), expected.transform(images))


@pytest.mark.parametrize("encoder", [ResNetEncoder, partial(TorchvisionEncoder, "mnasnet0_5")])
def test_paths_travel_to_other_systems(encoder, tmp_path):
    model = SimCLRTransformer(encoder(weights=tmp_path / "a"), checkpoint_dir=tmp_path / "b")
    assert b"pathlib" not in pickle.dumps(model.set_params(cache_dir=tmp_path / "c"))
    params = pickle.loads(pickle.dumps(model)).get_params()
    assert params["encoder__weights"] == str(tmp_path / "a")
    assert params["checkpoint_dir"] == str(tmp_path / "b")
    assert isinstance(clone(model).checkpoint_dir, Path)


# ------------------------------------------------------------------------------------------------
# Plain state


def everything_in(value, seen=None):
    """Yield all objects that can be reached from a value."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type | types.ModuleType | types.FunctionType):
        return
    seen.add(id(value))
    yield value
    parts = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    elif isinstance(value, np.ndarray):
        parts = list(value.ravel()) if value.dtype == object else []
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).values())
    for part in parts:
        yield from everything_in(part, seen)


PLAIN = (type(None), bool, int, float, str, dict, list, tuple, np.ndarray, np.dtype)


@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize("name", ["digits", "resnet", "mlp", "factory"])
def test_state_is_plain(simclr, digits, name, device):
    images, _ = digits
    model = simclr(**MODELS[name], device=device)
    steps = [model.fit, model.transform, model.score, model.partial_fit, model.partial_fit]
    for step in steps:
        step(images)
        found = list(everything_in(vars(model)))
        assert len(found) > 30
        for value in found:
            ours = type(value).__module__.startswith("sklearn_simclr.")
            assert ours or isinstance(value, PLAIN), f"{value!r} after {step.__name__}"
        # The device is what was asked for, never the one that was found.
        strings = [value for value in found if isinstance(value, str)]
        assert strings.count("cuda") == 0
        assert strings.count("cpu") == (device == "cpu")


def test_state_is_plain_beside_the_users_own_parts(simclr, digits):
    model = simclr(encoder=factory(), device=torch.device("cpu")).fit(digits[0])
    own = {"encoder", "device", "_encoder"}  # the last is what the first was
    state = {name: value for name, value in vars(model).items() if name not in own}
    live = torch.Tensor | nn.Module | torch.device | torch.Generator | torch.optim.Optimizer
    assert [value for value in everything_in(state) if isinstance(value, live)] == []
    assert not np.array_equal(model._weights["encoder.1.weight"], model._encoder[1].weight.detach())


def test_a_pickle_is_no_larger_than_its_weights(simclr, digits):
    images = np.repeat(digits[0], 20, axis=0)  # 0.6 MB that must not be kept
    model = simclr(max_epochs=1, batch_size=640).fit(images)
    assert len(pickle.dumps(model)) < 20_000


# ------------------------------------------------------------------------------------------------
# Hashes: Pipeline(memory=) looks models up by them


@pytest.mark.parametrize("name", ["digits", "resnet", "mlp", "factory", "explicit device"])
def test_hash_of_equal_models_is_equal(simclr, digits, name):
    # Not of an nn.Module: torch pickles the addresses of its weights.
    images, _ = digits
    unfitted = simclr(**MODELS[name])
    first, second = clone(unfitted).fit(images), clone(unfitted).fit(images)
    expected = joblib.hash(first)
    assert joblib.hash(second) == expected
    first.transform(images)
    first.score(images[:5])
    assert joblib.hash(first) == expected
    assert joblib.hash(pickle.loads(pickle.dumps(first))) == expected
    assert joblib.hash(copy.deepcopy(first)) == expected


def test_hash_of_other_models_differs(simclr, digits):
    images, _ = digits
    models = [
        simclr(),
        simclr().fit(images),
        simclr(random_state=1).fit(images),
        simclr(temperature=0.4).fit(images),
        simclr().fit(images[:32]),
        simclr().fit(images).partial_fit(images),
    ]
    assert len({joblib.hash(model) for model in models}) == len(models)


# ------------------------------------------------------------------------------------------------
# Other processes, other versions


def test_another_process_loads_the_pickle(simclr, digits, root, tmp_path):
    images, _ = digits
    model = simclr().fit(images)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    np.save(tmp_path / "images.npy", images)
    code = (
        "import pickle, sys, numpy as np\n"
        "assert 'torch' not in sys.modules\n"
        "model = pickle.load(open('model.pkl', 'rb'))\n"
        "np.save('features.npy', model.transform(np.load('images.npy')))\n"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{code}"],
        cwd=tmp_path,
        check=True,
    )
    assert_allclose(np.load(tmp_path / "features.npy"), model.transform(images), atol=1e-5)


def test_there_are_golden_models():
    names = {"classifier", "composed", "digits", "photos", "vectors"}
    assert {path.name.split("-")[0] for path in GOLDEN} == names
    assert all(path.stat().st_size < 100_000 for path in GOLDEN)


def golden(*, classifiers):
    paths = [path for path in GOLDEN if path.name.startswith("classifier") == classifiers]
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


@golden(classifiers=True)
def test_golden_classifiers_of_every_version_still_give_their_probabilities(path):
    model, kept = pickle.loads(path.read_bytes()), np.load(path.with_suffix(".npz"))
    X, expected = kept["X"], kept["features"]
    assert isinstance(model, SimCLRClassifier)
    assert_allclose(model.predict_proba(X), expected, rtol=1e-3, atol=1e-4)
    assert model.score(X, model.classes_[expected.argmax(1)]) == kept["score"] == 1
    assert np.isfinite(clone(model).fit(X, model.predict(X)).predict_proba(X)).all()


def test_torchvision_networks_of_version_010_still_load(simclr, photos):
    name = "squeezenet1_1"
    images = np.repeat(np.repeat(photos[0][:4], 2, 1), 2, 2)
    model = simclr(encoder=name, batch_size=4, max_epochs=1).fit(images)
    features = model.transform(images)
    state = model.__getstate__() | {"_encoder": name, "encoder_name_": name}
    old = SimCLRTransformer.__new__(SimCLRTransformer)
    old.__setstate__(state)
    assert_array_equal(old.transform(images), features)
    assert old.set_params(warm_start=True).fit(images).n_iter_ == 2


@golden(classifiers=False)
def test_golden_models_of_every_version_still_give_their_features(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = pickle.loads(path.read_bytes())
    assert isinstance(model, SimCLRTransformer)
    kept = np.load(path.with_suffix(".npz"))
    X, expected = kept["X"], kept["features"]
    if hasattr(model, "feature_names_in_"):
        X = pytest.importorskip("pandas").DataFrame(X, columns=model.feature_names_in_)
    assert_allclose(model.transform(X), expected, rtol=1e-3, atol=1e-4)
    assert model.score(X) == pytest.approx(kept["score"], abs=0.1)
    assert model.loss_ == model.loss_curve_[-1]

    n_epochs = model.n_iter_
    assert model.partial_fit(X).n_iter_ == n_epochs + 1
    model.set_params(max_epochs=1, warm_start=True).fit(X)
    assert model.n_iter_ == n_epochs + 2
    assert np.isfinite(clone(model).fit(X).transform(X)).all()


def test_nested_objects_of_the_state_are_the_ones_that_were_trained(simclr, digits):
    model = simclr(encoder=MLPEncoder(hidden_dim=8), projection_layers=1).fit(digits[0])
    features = model.transform(digits[0])
    model.set_params(encoder__hidden_dim=16, projection_dim=4, projection_layers=3)
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.transform(digits[0]), features)
