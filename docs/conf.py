"""Sphinx configuration; build with ``python -m sphinx -W --keep-going docs site``."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "flowdists"
author = "the flowdists authors"
version = release = installed_version("flowdists")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "public_api"]
exclude_patterns = ["_ext"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # NumPyro's and distrax's docstrings are theirs
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

# Within the package every cross-reference must resolve. Other projects' names cannot be looked up
# without a network, and what the package does not export is not documented.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!flowdists\.).*"),
    ("py:class", r"flowdists\.[a-z_]+\..*"),
]

html_theme = "furo"
html_title = f"flowdists {release}"
