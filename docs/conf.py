"""Sphinx configuration; ``make docs`` builds with warnings as errors."""

from importlib.metadata import version as installed_version

project = "egd-optax"
author = "The egd-optax developers"
copyright = f"2026, {author}"
version = release = installed_version("egd-optax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "egd-optax"

autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Every reference must resolve; types of other packages have no page here.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(jax|optax|flax|numpy|np|collections|typing)\..*"),
    ("py:class", r"ArrayLike|optional|None"),
]
