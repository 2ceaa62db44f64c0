"""Configuration of the Sphinx site."""

import sklearn_simclr

project = "sklearn_simclr"
author = "The sklearn_simclr developers"
copyright = f"2026, {author}"
release = version = sklearn_simclr.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
default_role = "code"
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
suppress_warnings = ["myst.header"]  # the tables of the benchmarks start below the top level

autodoc_typehints = "none"  # the docstrings give the types
numpydoc_show_class_members = False  # the templates list the methods

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"^(?!plot_)",
    "reset_modules": (),
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False}
