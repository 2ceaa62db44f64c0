"""Encoders that start from given weights: all forms of them, what fits, and what is refused."""

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from torch import nn
from torchvision.models import ResNet18_Weights, VisionTransformer, resnet18

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._pretrained import load_pretrained, read_weights
from sklearn_simclr.encoders import (
    ConvNetEncoder,
    MLPEncoder,
    ResNetEncoder,
    TorchvisionEncoder,
    without_weights,
)

SHAPE = (3, 16, 16)
NARROW = {"width": 1 / 16}


def state_of(encoder, shape=SHAPE, seed=0):
    """State dict of a fresh network, the statistics of whose normalisation are not the first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = encoder.build(shape).state_dict()
        for name, value in state.items():
            if "running" in name:
                value.uniform_(0.5, 2)
    return state


def assert_same_state(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.fixture(scope="module")
def given():
    """State dict of a narrow ResNet-18 for 3 channels."""
    return state_of(ResNetEncoder(**NARROW))


# What weights may be


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stem", ["small", "large"])
def test_network_starts_from_exactly_the_weights_of_another(depth, stem):
    encoder = ResNetEncoder(depth, stem=stem, **NARROW)
    given = state_of(encoder)
    encoder.weights = given
    assert_same_state(encoder.build(SHAPE).state_dict(), given)


FORMS = {
    "arrays": lambda state: {name: value.numpy() for name, value in state.items()},
    "arrays in Fortran order": lambda state: {
        name: value.numpy().copy(order="F") for name, value in state.items()
    },
    "float64": lambda state: {name: value.double() for name, value in state.items()},
    "parameters": lambda state: {
        name: nn.Parameter(value, requires_grad=value.is_floating_point())
        for name, value in state.items()
    },
    "plain dict": dict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "args": None},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "module.encoder.": lambda state: {
        "module.head.weight": torch.zeros(3),
        **{f"module.encoder.{name}": value for name, value in state.items()},
    },
    "backbone., other order": lambda state: {
        **{f"backbone.{name}": state[name] for name in sorted(state)},
        "projection_head.0.weight": torch.zeros(3),
    },
    "classifier": lambda state: {**state, "fc.weight": torch.zeros(9, 32)},
    "classifier of layers": lambda state: {**state, "fc.0.weight": torch.zeros(3)},
    "old torch": lambda state: {n: v for n, v in state.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_a_state_dict(given, form):
    weights = form(given)
    names = list(weights)
    network = ResNetEncoder(weights=weights, **NARROW).build(SHAPE)
    assert_same_state(network.state_dict(), given)
    assert list(weights) == names
    assert all(param.requires_grad for param in network.parameters())


def test_half_precision_becomes_float32(given):
    weights = {n: v.half() if v.is_floating_point() else v for n, v in given.items()}
    state = ResNetEncoder(weights=weights, **NARROW).build(SHAPE).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert torch.equal(state["conv1.weight"], given["conv1.weight"].half().float())


@pytest.mark.parametrize("kind", [str, Path])
def test_path_of_a_file(given, tmp_path, kind):
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": given}, path)
    network = ResNetEncoder(weights=kind(path), **NARROW).build(SHAPE)
    assert_same_state(network.state_dict(), given)


def test_network_shares_no_memory_with_the_weights(given):
    before = copy.deepcopy(given)
    arrays = {name: value.numpy() for name, value in given.items()}
    for weights in (given, arrays):
        network = ResNetEncoder(weights=weights, **NARROW).build(SHAPE)
        with torch.no_grad():
            for value in network.state_dict().values():
                value.zero_()
        assert_same_state(given, before)


def test_torchvisions_weights_are_downloaded_and_nothing_in_them_is_run(monkeypatch):
    asked = []
    theirs = resnet18()

    def download(url, **options):
        asked.append((url, options["weights_only"], options["check_hash"], options["progress"]))
        return theirs.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    encoder = clone(ResNetEncoder(weights=ResNet18_Weights.DEFAULT))
    network = pickle.loads(pickle.dumps(encoder)).build((3, 96, 96))
    assert asked == [(ResNet18_Weights.DEFAULT.url, True, True, False)]
    theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), theirs.eval()(x))


def test_a_download_that_fails_tells_the_address(monkeypatch):
    def download(url, **options):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(ValueError, match=r"V1 could not be fetched: OSError: no network.*https://"):
        ResNetEncoder(weights=ResNet18_Weights.DEFAULT).build(SHAPE)


# What is refused


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path):
    torch.save({"conv1.weight": RunsCode(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights='.*weights.pt' cannot be read .* code"):
        ResNetEncoder(weights=tmp_path / "weights.pt").build(SHAPE)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no weights"),
        lambda path: path.write_bytes(pickle.dumps({"a": np.zeros(3)})),
        lambda path: torch.save(nn.Linear(2, 2), path),
    ],
    ids=["empty", "text", "pickle", "module"],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_other_files_are_refused(tmp_path, write):
    write(tmp_path / "file")
    with pytest.raises(ValueError, match=r"file' cannot be read .* Write it by torch\.save"):
        ResNetEncoder(weights=tmp_path / "file").build(SHAPE)


@pytest.mark.parametrize("path", ["nowhere.pt", ".", "DEFAULT", "IMAGENET1K_V1"])
def test_a_path_of_no_file_is_refused(path):
    with pytest.raises(ValueError, match=f"weights='{path}' is not a file.*_Weights.DEFAULT"):
        ResNetEncoder(weights=path).build(SHAPE)


@pytest.mark.parametrize(
    "content, match",
    [
        (torch.zeros(3), r"weights are Tensor; they must be a state dict"),
        ([1, 2], r"weights are list; they must be a state dict"),
        ({}, r"weights are empty; they must be a state dict"),
        ({"net": {"conv1.weight": torch.zeros(3)}}, r"weights\['net'\] is dict; .* itself"),
        ({"conv1.weight": "text"}, r"weights\['conv1.weight'\] is str; every entry"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, content, match):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=match):
        ResNetEncoder(weights=tmp_path / "weights.pt").build(SHAPE)


def test_arrays_of_objects_are_refused(given):
    weights = given | {"conv1.weight": np.array([None, "text"])}
    with pytest.raises(ValueError, match=r"weights\['conv1.weight'\] is ndarray; every entry"):
        ResNetEncoder(weights=weights, **NARROW).build(SHAPE)


def with_nan(state):
    value = state["layer1.0.bn1.weight"].clone()
    value[1] = torch.nan
    return state | {"layer1.0.bn1.weight": value}


def without(state, part):
    return {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda s: without(s, "layer4"), r"missing layer4.*, layer4.*, layer4.* and \d+ more\. "),
        (lambda s: without(s, "layer1.0.bn1.bias"), r"missing layer1\.0\.bn1\.bias\. Give"),
        (lambda s: s | {"extra": torch.zeros(1)}, r"unexpected extra\. Give"),
        (lambda s: s | {"layer5.0.weight": torch.zeros(1)}, r"unexpected layer5\.0\.weight"),
        (
            lambda s: s | {"bn1.bias": torch.zeros(7)},
            r"misshapen bn1\.bias \(7,\) instead of \(4,\)\. Give",
        ),
        (lambda s: s | {"bn1.bias": torch.zeros(4, 1)}, r"misshapen bn1\.bias \(4, 1\) instead"),
        (with_nan, r"not finite layer1\.0\.bn1\.weight\. Give"),
        (
            lambda s: without(s, "bn1.bias") | {"x": torch.zeros(1)},
            r"missing bn1\.bias, .*; unexpected x\. Give",
        ),
        (
            lambda s: without({f"net.{name}": value for name, value in s.items()}, "layer3"),
            r"missing conv1\.weight, .* unexpected net\.conv1\.weight,",
        ),
        (
            lambda s: {f"{p}{n}": v for n, v in s.items() for p in ("q.", "k.")},
            r"several such networks, under \['q\.', 'k\.'\]",
        ),
        (
            lambda s: {f"net.{n}": v for n, v in s.items()} | {"net.extra": torch.zeros(1)},
            r"unexpected extra\.",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(given, change, match):
    with pytest.raises(ValueError, match=match):
        ResNetEncoder(weights=change(given), **NARROW).build(SHAPE)


@pytest.mark.parametrize("options", [{"depth": 34, **NARROW}, {"width": 1 / 8}, {"depth": 50}])
def test_weights_of_another_network_are_refused(given, options):
    encoder = ResNetEncoder(weights=given, **options)
    with pytest.raises(ValueError, match="weights do not fit encoder=ResNetEncoder") as error:
        encoder.build(SHAPE)
    assert "weights=" not in str(error.value) and len(str(error.value)) < 500


def test_weights_of_another_stem_than_the_one_asked_for_are_refused(given):
    encoder = ResNetEncoder(stem="large", weights=given, **NARROW)
    with pytest.raises(ValueError, match=r"misshapen conv1\.weight \(4, 3, 3, 3\) instead of \(4"):
        encoder.build(SHAPE)


# The stem and the channels of a ResNet


@pytest.mark.parametrize("stem, kernel", [("small", 3), ("large", 7)])
@pytest.mark.parametrize("side", [16, 96])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_stem_is_that_of_the_weights(stem, kernel, side, prefix):
    state = state_of(ResNetEncoder(stem=stem, **NARROW))
    weights = {f"{prefix}{name}": state[name] for name in sorted(state, reverse=True)}
    network = ResNetEncoder(weights=weights, **NARROW).build((3, side, side))
    assert network.conv1.kernel_size == (kernel, kernel)
    assert hasattr(network, "maxpool") == (stem == "large")
    assert_same_state(network.state_dict(), state)


def first_convolution(network):
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    "encoder, side",
    [(ResNetEncoder(**NARROW), 16), (TorchvisionEncoder("squeezenet1_1"), 32)],
    ids=["without bias", "with bias"],
)
@pytest.mark.parametrize("before, after", [(3, 1), (3, 4), (3, 9), (1, 3), (4, 3)])
def test_gray_images_get_the_same_features_whatever_the_channels(encoder, side, before, after):
    given = state_of(encoder, (before, side, side))
    network = encoder.build((before, side, side))
    network.load_state_dict(given)
    other = clone(encoder).set_params(weights=given).build((after, side, side))
    assert first_convolution(other).weight.shape[1] == after
    x = torch.rand(2, 1, side, side)
    with torch.no_grad():
        expected = network.eval()(x.expand(-1, before, -1, -1))
        torch.testing.assert_close(other.eval()(x.expand(-1, after, -1, -1)), expected)
    for name, value in other.state_dict().items():
        assert value.shape != given[name].shape or torch.equal(value, given[name])


def test_one_channel_gets_the_sum_over_the_colours(given):
    network = ResNetEncoder(weights=given, **NARROW).build((1, 16, 16))
    assert_allclose(
        network.conv1.weight.detach()[:, 0], given["conv1.weight"].numpy().sum(1), rtol=1e-5
    )


# torchvision's networks; test_encoders.py compares them all with torchvision's own


@pytest.mark.parametrize("name", ["mnasnet0_75", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_torchvision_network_starts_from_exactly_the_weights_of_another(name):
    shape = (3, 32, 32)
    encoder = TorchvisionEncoder(name)
    given = state_of(encoder, shape)
    weights = dict(given)  # without the versions of layers that torch keeps beside the entries
    assert_same_state(clone(encoder).set_params(weights=weights).build(shape).state_dict(), given)


def test_names_of_torchvisions_densenet_files_are_brought_up_to_date():
    encoder = TorchvisionEncoder("densenet121")
    given = state_of(encoder, (3, 32, 32))
    weights = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for name, value in given.items()
    }
    assert list(weights) != list(given)
    encoder.weights = weights
    assert_same_state(encoder.build((3, 32, 32)).state_dict(), given)


def small_vit(side):
    return VisionTransformer(side, 4, num_layers=1, num_heads=1, hidden_dim=2, mlp_dim=2)


def load_into_vit(weights, side):
    network = small_vit(side)
    network.heads = nn.Identity()
    options = {"first_convolution": "conv_proj", "classifiers": ("heads.head",)}
    load_pretrained(network, read_weights(weights), encoder="'vit'", **options)
    return network.state_dict()["encoder.pos_embedding"]  # (1, 1 + patches, 2)


def test_position_embeddings_are_interpolated_to_the_size_of_the_images():
    given = small_vit(16).state_dict()
    positions = given["encoder.pos_embedding"]
    assert torch.equal(load_into_vit(given, 16), positions)

    fitted = load_into_vit(given, 28)
    assert fitted.shape == (1, 1 + 7 * 7, 2)
    assert torch.equal(fitted[:, 0], positions[:, 0])
    old, new = positions[0, 1:].view(4, 4, 2), fitted[0, 1:].view(7, 7, 2)
    assert_allclose(new[::2, ::2], old, atol=1e-6)  # the corners stay, three steps become six
    assert torch.equal(given["encoder.pos_embedding"], positions)


@pytest.mark.parametrize("shape", [(1, 16, 2), (2, 17, 2), (17, 2), (1, 17, 3), (1, 0, 2)])
def test_position_embeddings_that_are_no_square_are_refused(shape):
    weights = small_vit(16).state_dict() | {"encoder.pos_embedding": torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"'vit': misshapen encoder\.pos_embedding"):
        load_into_vit(weights, 28)


# Without the weights: what is kept of the encoder


def test_without_weights_the_stem_is_the_one_that_was_built():
    large = state_of(ResNetEncoder(stem="large", **NARROW))
    encoder = ResNetEncoder(weights=large, **NARROW)
    network = encoder.build(SHAPE)
    assert repr(without_weights(encoder)) == repr(ResNetEncoder(**NARROW))
    kept = without_weights(encoder, network)
    assert repr(kept) == repr(ResNetEncoder(stem="large", **NARROW))
    assert repr(kept.build(SHAPE)) == repr(network)
    assert encoder.weights is large and encoder.stem == "auto"


def test_other_encoders_are_none_the_different_without_weights():
    own = nn.Linear(2, 2)
    for encoder in ("auto", own, ConvNetEncoder(), MLPEncoder(), ResNetEncoder(), resnet18):
        assert without_weights(encoder, own) is encoder


def test_encoder_pickled_before_there_were_weights_still_builds():
    state = ResNetEncoder(**NARROW).__getstate__()
    del state["weights"]
    encoder = ResNetEncoder.__new__(ResNetEncoder)
    encoder.__setstate__(state)
    assert clone(encoder).get_params() == ResNetEncoder(**NARROW).get_params()
    assert encoder.build(SHAPE)(torch.zeros(2, *SHAPE)).shape == (2, 32)


# The transformer


@pytest.fixture
def pretrained():
    """Transformer that starts from the given weights, those of a stem for large images."""
    weights = state_of(ResNetEncoder(stem="large", **NARROW))
    encoder = ResNetEncoder(weights=weights, **NARROW)
    return SimCLRTransformer(encoder, projection_dim=8, batch_size=16, max_epochs=1, random_state=0)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return tensors_in(vars(value)) if hasattr(value, "__dict__") else []


def test_training_starts_from_the_weights(pretrained, photos):
    weights = pretrained.encoder.weights
    pretrained.set_params(learning_rate=1e-12, weight_decay=0).fit(photos[0])
    for name, value in weights.items():
        if "running" not in name and "num_batches" not in name:
            assert_allclose(pretrained._weights[f"encoder.{name}"], value, atol=1e-9)
    fresh = clone(pretrained).set_params(encoder__weights=None, encoder__stem="large")
    fresh.fit(photos[0])
    assert not np.allclose(fresh._weights["encoder.conv1.weight"], weights["conv1.weight"])


def test_fitted_state_holds_no_starting_weights(pretrained, photos):
    pretrained.fit(photos[0])
    assert pretrained.encoder_name_ == repr(ResNetEncoder(**NARROW))
    assert repr(pretrained._encoder) == repr(ResNetEncoder(stem="large", **NARROW))
    own = {name: value for name, value in vars(pretrained).items() if name != "encoder"}
    assert tensors_in(vars(pretrained)) and not tensors_in(own)
    n_bytes = sum(value.nbytes for value in pretrained._weights.values())
    assert len(pickle.dumps(own)) < 1.2 * n_bytes


def test_fitted_model_no_longer_needs_the_file(pretrained, photos, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(pretrained.encoder.weights, path)
    from_file = clone(pretrained).set_params(encoder__weights=path).fit(photos[0])
    path.unlink()
    features = pretrained.fit(photos[0]).transform(photos[0])
    assert_array_equal(from_file.transform(photos[0]), features)
    loaded = pickle.loads(pickle.dumps(from_file))
    assert_array_equal(loaded.transform(photos[0]), features)
    assert loaded.partial_fit(photos[0]).n_iter_ == 2
    with pytest.raises(ValueError, match="is not a file"):
        loaded.fit(photos[0])


@pytest.mark.parametrize("weights", ["the same", None, "moved.pt"])
def test_training_goes_on_from_the_present_weights(pretrained, photos, weights):
    images = photos[0]
    pretrained.set_params(learning_rate=0.1).fit(images)
    present = pretrained._weights["encoder.conv1.weight"]
    assert not np.allclose(present, pretrained.encoder.weights["conv1.weight"], atol=1e-3)
    if weights != "the same":
        pretrained.set_params(encoder__weights=weights)
    pretrained.set_params(learning_rate=1e-12, weight_decay=0)
    pretrained.partial_fit(images)
    pretrained.set_params(warm_start=True).fit(images)
    assert pretrained.n_iter_ == 3
    assert_allclose(pretrained._weights["encoder.conv1.weight"], present, atol=1e-9)


def test_training_does_not_go_on_with_another_network(pretrained, photos):
    pretrained.fit(photos[0]).set_params(encoder__depth=34)
    with pytest.raises(ValueError, match=r"encoder='ResNetEncoder\(depth=34, .* differs from"):
        pretrained.partial_fit(photos[0])


def test_weights_that_do_not_fit_stop_the_fit_before_it_changes_anything(pretrained, photos):
    pretrained.set_params(encoder__depth=50)
    with pytest.raises(ValueError, match="weights do not fit"):
        pretrained.fit(photos[0])
    assert not hasattr(pretrained, "encoder_name_") and not hasattr(pretrained, "n_features_in_")


def test_parameter_object_with_weights(pretrained, given, photos):
    copied = pickle.loads(pickle.dumps(clone(pretrained)))
    assert_same_state(copied.get_params()["encoder__weights"], pretrained.encoder.weights)
    assert copied.encoder.weights is not pretrained.encoder.weights
    features = pretrained.fit(photos[0]).transform(photos[0])
    assert_array_equal(copied.fit(photos[0]).transform(photos[0]), features)
    assert copied.set_params(encoder__weights=given).encoder.weights is given


def test_grid_search_over_weights(pretrained, given, photos, tmp_path):
    images, labels = photos
    torch.save(given, tmp_path / "weights.pt")
    steps = [("simclr", pretrained), ("clf", LogisticRegression(max_iter=1000))]
    grid = {"simclr__encoder__weights": [None, given, str(tmp_path / "weights.pt")]}
    search = GridSearchCV(Pipeline(steps), grid, cv=2, error_score="raise").fit(images, labels)
    scores = search.cv_results_["mean_test_score"]
    assert scores[1] == scores[2]
    assert search.best_estimator_.predict(images).shape == (32,)


def test_torchvision_network_is_trained_from_weights_and_rebuilt(photos):
    images = photos[0][:8]
    given = state_of(TorchvisionEncoder("mnasnet0_5"))
    encoder = TorchvisionEncoder("mnasnet0_5", weights=given)
    options = {"max_epochs": 1, "batch_size": 8, "random_state": 0}
    model = SimCLRTransformer(encoder, learning_rate=1e-12, **options).fit(images)
    assert model.encoder_name_ == "TorchvisionEncoder(name='mnasnet0_5')"
    assert model._encoder.weights is None
    name = "layers.0.weight"
    assert_allclose(model._weights[f"encoder.{name}"], given[name], atol=1e-9)
    assert model.transform(images).shape == (8, 1280)
    assert model.set_params(encoder="mnasnet0_5").partial_fit(images).n_iter_ == 2


def test_torchvision_network_that_drops_layers_draws_from_the_seed_alone(photos):
    images = photos[0][:8, ::4, ::4]
    options = {"max_epochs": 1, "batch_size": 8, "random_state": 0}
    state = torch.get_rng_state()
    models = [SimCLRTransformer("efficientnet_b0", **options).fit(images) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert models[0].loss_ == models[1].loss_
    assert_array_equal(models[0].transform(images), models[1].transform(images))
