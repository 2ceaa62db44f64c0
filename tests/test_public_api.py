"""What is public: the reference lists it, its docstrings are whole, and it changes only on purpose.

After a change on purpose, `python tests/test_public_api.py` writes the snapshot anew.
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from numpydoc.validate import validate

import sklearn_simclr

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / "tests" / "golden" / "public_api.txt"
MODULES = sorted(
    f"sklearn_simclr.{path.stem}" for path in Path(sklearn_simclr.__file__).parent.glob("[a-z]*.py")
)
# Methods that all augmentations, encoders or callbacks have in common: what they take and return is
# documented by their modules, and by scikit-learn.
IN_COMMON = {"apply", "build", "make_params", "skipped", "validate"}
IN_COMMON |= {"on_fit_task_begin", "on_fit_task_end", "setup", "teardown"}
NOT_ASKED_FOR = {
    "ES01",  # a summary may say it all
    "SA01",  # related objects stand side by side in the reference
    "SS05",  # the names of what is returned often say best what a function does
}


def public_names():
    """Full names of the public objects, and of the methods that the classes add."""
    for module in ["sklearn_simclr", *MODULES]:
        for name in importlib.import_module(module).__all__:
            if name == "__version__":
                continue
            yield f"{module}.{name}"
            value = find(f"{module}.{name}")
            if inspect.isclass(value):
                for method, function in sorted(vars(value).items()):
                    if not method.startswith("_") and callable(unwrapped(function)):
                        yield f"{module}.{name}.{method}"


def unwrapped(method):
    return method.__func__ if isinstance(method, classmethod | staticmethod) else method


def find(full_name):
    """Return the object of a name such as sklearn_simclr.optim.LARS.step."""
    module = next(m for m in [*MODULES, "sklearn_simclr"] if full_name.startswith(f"{m}."))
    value = importlib.import_module(module)
    for part in full_name.removeprefix(f"{module}.").split("."):
        value = getattr(value, part)
    return value


NAMES = sorted(public_names())


def snapshot():
    """Return a line for each public object, with its signature."""
    return "".join(f"{name}{inspect.signature(find(name))}\n" for name in NAMES)


def test_public_names_and_signatures_are_those_of_the_snapshot():
    assert snapshot() == SNAPSHOT.read_text(encoding="utf-8")


def test_the_reference_lists_what_is_public():
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   ((?:\w+\.)?\w+)$", page, flags=re.MULTILINE)
    objects = {name.removeprefix("sklearn_simclr.") for name in NAMES if is_object(name)}
    assert sorted(listed) == sorted(objects)


def is_object(name):
    """Whether a name is that of an object and not of a method."""
    owner = name.rpartition(".")[0]
    return owner in ("sklearn_simclr", *MODULES)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_is_whole(name):
    excused = set(NOT_ASKED_FOR)
    if not is_object(name):
        excused.add("EX01")  # the example of the class shows its methods
        if name.rpartition(".")[2] in IN_COMMON:
            excused |= {"PR01", "RT01"}
    found = validate(qualified(name))["errors"]
    assert [f"{code}: {text}" for code, text in found if code not in excused] == []


def qualified(name):
    """Return the name under which numpydoc finds an object, which is that of its source."""
    value = find(name)
    return f"{value.__module__}.{value.__qualname__}"


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot(), encoding="utf-8")
