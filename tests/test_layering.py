"""Imports of the package: strictly downward, and of run-time dependencies only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_simclr

# From top to bottom; modules of one layer do not import each other.
LAYERS = (
    {"__init__", "inspection"},
    {"_inspected"},
    {"_classifier"},
    {"_transformer"},
    {"_run"},
    {"_export", "_finetuning", "_inference", "_training"},
    {"_micro_batches", "_network", "_probe", "_reading", "_views", "callbacks"},
    {
        "_checkpoints",
        "_data",
        "_device",
        "_distributed",
        "_files",
        "_fingerprint",
        "augmentation",
        "datasets",
        "encoders",
        "losses",
        "metrics",
        "optim",
        "projection",
    },
    {"_composition", "_pixel_cache", "_view_parts"},
    {
        "_allocator",
        "_batch_norm",
        "_decoding",
        "_graphs",
        "_kernels",
        "_labels",
        "_log_sums",
        "_persistence",
        "_pictures",
        "_pretrained",
        "_progress",
        "_random",
        "_version",
        "_view_params",
        "_whole_files",
        "_workers",
    },
    {"_placement", "_warnings"},
)
DEPENDENCIES = {"joblib", "numpy", "sklearn", "torch", "torchvision"}
THEIR_OWN = {"PIL", "threadpoolctl"}  # that the dependencies require themselves
EXTRAS = {"_pictures": {"matplotlib"}, "inspection": {"matplotlib"}}  # imported in functions
FILES = {path.stem: path for path in Path(sklearn_simclr.__file__).parent.rglob("*.py")}


def imported_names(module):
    """Absolute names of all that a module imports, at whatever depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "sklearn_simclr" if node.level else node.module
            if node.level and node.module:
                source += f".{node.module}"
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def imported_modules(module):
    """Modules of the package that a module imports."""
    own = (name for name in imported_names(module) if name.startswith("sklearn_simclr."))
    return {name.split(".")[1] for name in own} & set(FILES)


def layer_of(module):
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def test_every_module_has_a_layer():
    assert set().union(*LAYERS) == set(FILES)


@pytest.mark.parametrize("module", FILES)
def test_imports_run_strictly_downward(module):
    for imported in imported_modules(module):
        assert layer_of(imported) > layer_of(module), f"{module} imports {imported}"


def test_imports_are_seen():
    assert {"_training", "_data", "optim"} <= imported_modules("_transformer")


@pytest.mark.parametrize("module", ["_export", "_finetuning", "_micro_batches", "_training"])
def test_training_loops_know_no_scikit_learn(module):
    assert not [name for name in imported_names(module) if name.split(".")[0] == "sklearn"]


@pytest.mark.parametrize("module", FILES)
def test_only_run_time_dependencies_are_imported(module):
    roots = {name.split(".")[0] for name in imported_names(module)} - EXTRAS.get(module, set())
    assert roots <= DEPENDENCIES | THEIR_OWN | {"sklearn_simclr"} | sys.stdlib_module_names


@pytest.mark.parametrize("module", EXTRAS)
def test_extras_are_imported_in_functions_only(module):
    code = f"import sys, sklearn_simclr.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not EXTRAS[module] & set(loaded.stdout.split())
