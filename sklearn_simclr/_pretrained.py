"""Weights that an encoder starts from: read from anywhere, and fitted to its network."""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

# What the parameter `weights` of an encoder may be.
WEIGHTS_CONSTRAINT = [None, str, os.PathLike, Mapping, WeightsEnum]

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts put a state dict
_COUNTER = "num_batches_tracked"  # batch normalisation of old torch versions had none
_POSITIONS = "encoder.pos_embedding"
_N_NAMED = 3  # entries of each kind that an error names


def read_weights(weights) -> dict[str, Tensor]:
    """Read the parameter `weights` of an encoder; its tensors go to the CPU, floats to float32.

    Raises
    ------
    ValueError
        If there is nothing to read, reading it would run code, or it is no state dict.
    """
    state = weights if isinstance(weights, Mapping) else _open(weights)
    if isinstance(state, Mapping):
        wrapped = (state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping))
        state = next(wrapped, state)
    if not isinstance(state, Mapping) or not state:
        raise ValueError(
            f"The weights are {'empty' if isinstance(state, Mapping) else type(state).__name__}; "
            "they must be a state dict, a mapping from names to tensors or arrays."
        )
    return {_present_name(name): _tensor(name, value) for name, value in state.items()}


def _open(weights):
    """Load a file or torchvision's own weights; nothing in them is run."""
    if isinstance(weights, WeightsEnum):
        try:
            return weights.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
        except Exception as error:
            raise ValueError(
                f"weights={weights} could not be fetched: {type(error).__name__}: {error}. Fetch "
                f"{weights.url} where that is possible, and pass the path of the file."
            ) from error
    path = os.fspath(weights)
    if not os.path.isfile(path):
        raise ValueError(
            f"weights={path!r} is not a file. Pass the path of a file that torch.save wrote, a "
            "state dict, or torchvision's weights as such: torchvision.models.ResNet18_Weights."
            "DEFAULT, not its name."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"weights={path!r} cannot be read ({type(error).__name__}): it is no file of "
            "torch.save's, or holds more than tensors and plain values, which would need code to "
            "be run. Write it by torch.save(network.state_dict(), path)."
        ) from error


def _present_name(name: str) -> str:
    """Name of an entry in torchvision's DenseNets of today; their files have the old ones."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", str(name))


def _tensor(name: str, value) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.tensor(np.array(value))  # a copy, whatever its strides and flags
    if not isinstance(value, Tensor):
        raise ValueError(
            f"weights[{name!r}] is {type(value).__name__}; every entry must be a tensor or a "
            "numeric array. Pass the state dict itself."
        )
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", dtype)


def load_pretrained(
    network: nn.Module,
    weights: dict[str, Tensor],
    *,
    first_convolution: str,
    classifiers: tuple[str, ...],
    encoder: str,
) -> None:
    """Put weights into a network without classifier; whatever does not fit is refused.

    Parameters
    ----------
    network : nn.Module
        The network; its weights are overwritten.
    weights : dict
        What `read_weights` returned. Names may have a prefix; entries without it are left out.
    first_convolution : str
        Name of the layer that is fitted to the channels of the network.
    classifiers : tuple of str
        Names of layers that the network has no more, whose entries are left out.
    encoder : str
        How errors call the encoder.

    Raises
    ------
    ValueError
        If entries are missing, unexpected, of another shape or not finite.
    """
    target = network.state_dict()
    weights = _without_prefix(weights, target)
    dropped = tuple(f"{name}." for name in classifiers)
    weights = {name: value for name, value in weights.items() if not name.startswith(dropped)}
    _fit_channels(weights, f"{first_convolution}.weight", target)
    if isinstance(network, VisionTransformer):
        weights = _fit_positions(weights, network)
    _check_fit(weights, target, encoder)
    target.update(weights)  # keeps the versions of layers, which a state dict holds besides
    network.load_state_dict(target)


def _without_prefix(weights: dict[str, Tensor], names) -> dict[str, Tensor]:
    """Names as the network has them, if one prefix such as "module." stands before all of them."""
    needed = [name for name in names if not name.endswith(_COUNTER)]
    prefixes = [name.removesuffix(needed[0]) for name in weights if name.endswith(needed[0])]
    prefixes = [
        prefix
        for prefix in prefixes
        if f".{prefix}".endswith(".") and all(prefix + name in weights for name in needed)
    ]
    if "" in prefixes or not prefixes:
        return weights
    if len(prefixes) > 1:
        raise ValueError(
            f"The weights hold several such networks, under {prefixes}. Pass the entries of one."
        )
    (prefix,) = prefixes
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _fit_channels(weights: dict[str, Tensor], name: str, target: dict[str, Tensor]) -> None:
    """Share the sum over the channels of the first convolution out among those of the images.

    Images whose channels are all alike get the response that they got before.
    """
    weight, shape = weights.get(name), target[name].shape
    if weight is None or weight.ndim != 4 or weight.shape[1] == shape[1]:
        return
    total = weight.sum(1, keepdim=True)  # (out, 1, kernel, kernel)
    weights[name] = (total / shape[1]).repeat(1, shape[1], 1, 1)


def _fit_positions(weights: dict[str, Tensor], network: VisionTransformer) -> dict[str, Tensor]:
    """Interpolate the position embeddings of a vision transformer to the size of the images."""
    positions = weights.get(_POSITIONS)  # (1, 1 + patches, d)
    if positions is None or positions.ndim != 3 or len(positions) != 1:
        return weights
    n_patches = positions.shape[1] - 1
    if n_patches < 1 or math.isqrt(n_patches) ** 2 != n_patches:
        return weights
    return interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(weights))


def _check_fit(weights: dict[str, Tensor], target: dict[str, Tensor], encoder: str) -> None:
    shared = [name for name in target if name in weights]
    problems = {
        "missing": [n for n in target if n not in weights and not n.endswith(_COUNTER)],
        "unexpected": [n for n in weights if n not in target],
        "misshapen": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(target[name].shape)}"
            for name in shared
            if weights[name].shape != target[name].shape
        ],
        "not finite": [name for name in shared if not weights[name].isfinite().all()],
    }
    found = [f"{kind} {_few(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(
            f"The weights do not fit encoder={encoder}: {'; '.join(found)}. Give the encoder "
            "the options of the network that the weights are from, or pass other weights."
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more
