"""Sphinx: pages in MyST Markdown, notebooks executed at the build, formulas by a MathJax that is carried along."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
# the kernels of notebooks are processes of their own
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import messages  # noqa: E402

import modula_optax  # noqa: E402

project = "modula_optax"
author = copyright = "The modula_optax authors"
release = version = modula_optax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "_generated", "figures"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
# of the repository, from docs/
myst_url_schemes = ("http", "https", "mailto")
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# notebooks
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True

# API
default_role = "py:obj"  # single backticks in docstrings name what they stand for
autodoc_typehints = "none"  # types stand in the source; signatures are to be read
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Warns"]
python_maximum_signature_line_length = 88
add_module_names = False

# site
html_theme = "furo"
html_title = f"modula_optax {release}"
html_static_path = ["_static"]
html_css_files = ["modula_optax.css"]
html_theme_options = {"sidebar_hide_name": False, "navigation_with_keys": True}
html_show_sourcelink = False


def setup(app):
    """Writes the page of messages from the code before pages are read."""
    messages.write(HERE / "_generated" / "messages.md")
