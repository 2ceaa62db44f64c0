"""Facts about the project that stand in several files agree."""

import re
import tomllib
from pathlib import Path

import pytest

import sklearn_simclr

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(*names):
    return ROOT.joinpath(*names).read_text(encoding="utf-8")


def test_version():
    (cited,) = re.findall(r"^version: (.+)$", read("CITATION.cff"), flags=re.MULTILINE)
    (newest, *_) = re.findall(r"^## (\d\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert cited == newest == sklearn_simclr.__version__


def test_run_time_dependencies():
    names = {re.split(r"[<>=~!]", bound)[0] for bound in PROJECT["dependencies"]}
    assert names == {"joblib", "numpy", "scikit-learn", "torch", "torchvision"}
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", bound) for bound in PROJECT["dependencies"])


def test_extras_are_explained():
    extras = set(PROJECT["optional-dependencies"])
    assert extras == set(re.findall(r"^`(\w+)` ", read("docs", "install.rst"), flags=re.MULTILINE))


def test_readme_has_two_commands():
    assert read("README.md").count("```bash\n") == 2


def test_python_versions():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in PROJECT["classifiers"]
    assert f'python: ["{lowest}"]' in read(".github", "workflows", "tests.yml")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_stages_that_there_are(workflow):
    stages = set(re.findall(r"^(\w+)\(\) \{(?: # .*)?$", read(".ci", "run"), flags=re.MULTILINE))
    text = workflow.read_text(encoding="utf-8")
    called = set(re.findall(r"bash \.ci/run (\w+)", text))
    for listed in re.findall(r"stage: (?:\[(.*)\]|(\w+))", text):
        called |= set(re.findall(r"\w+", "".join(listed)))
    assert called and called <= stages


def test_all_stages_are_explained_and_run():
    script = read(".ci", "run")
    explained = set(re.findall(r"^# (\w+) {3,}", script, flags=re.MULTILINE))
    (default,) = re.findall(r'"\$\{@:-(.*)\}"', script)
    assert explained == set(default.split())
