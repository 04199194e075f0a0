"""Sphinx builds the pages beside this file: ``make docs``."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

project = "fastrnn"
copyright = "the fastrnn contributors, BSD-3-Clause"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
    "extensions.docstrings",
    "extensions.speed",
    "extensions.costs",
    "extensions.drawings",
    "extensions.finder",
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # torch.nn.Module has one for every forward
napoleon_numpy_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
highlight_language = "text"
python_display_short_literal_types = True
add_module_names = False
toc_object_entries = False
pygments_style = "tango"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = "fastrnn"
html_static_path = ["static"]
html_css_files = ["svg.css", "site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
