"""Configuration of the Sphinx site."""

import sys
from pathlib import Path

import sklearn_simclr

sys.path.insert(0, str(Path(__file__).parent))
from layers import picture

project = "sklearn_simclr"
author = "The sklearn_simclr developers"
copyright = f"2026, {author}"
release = version = sklearn_simclr.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
default_role = "code"
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
suppress_warnings = ["myst.header"]  # the tables of the benchmarks start below the top level

autodoc_typehints = "none"  # the docstrings give the types
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output
numpydoc_show_class_members = False  # the templates list the methods

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_simclr",),
    "ignore_pattern": r"^(?!plot_)",
    "reset_modules": (),
    "within_subsection_order": "gallery_order.TeachingOrder",
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = project
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {  # pages without others beside them need no navigation between these
    page: []
    for page in (
        "architecture",
        "benchmarks",
        "changelog",
        "comparison",
        "contributing",
        "install",
        "tutorial",
    )
}


def _draw_layers(app):
    target = Path(app.srcdir) / "generated" / "layers.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(picture(), encoding="utf-8")


def _find_by_last_name(app, env, node, contnode):
    """Resolve names such as `rankme`, which the summaries in api.rst use outside their module."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("."):
        return None
    node["refspecific"] = True  # find the object in whatever module it is
    resolve = env.get_domain("py").resolve_xref
    where = env, node["refdoc"], app.builder
    return resolve(*where, node["reftype"], node["reftarget"], node, contnode)


def setup(app):
    """Draw the layers before the pages are read, and help to resolve cross-references."""
    app.connect("builder-inited", _draw_layers)
    app.connect("missing-reference", _find_by_last_name)
