"""The site's settings; `python -m sphinx -W --keep-going -j 2 -b html docs out/site` builds it."""

import os
import sys
from pathlib import Path

import funcnet

sys.path.insert(
    0, str(Path(__file__).parent)
)  # for `making`, the extensions that are the site's own

# Pages are computed where every reader has a device, and figures are shown by IPython.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # half the time
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

project = "funcnet"
author = "the authors of funcnet"
copyright = author  # noqa: A001 - Sphinx reads this name
version = release = funcnet.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "making.api",
    "making.blocks",
    "making.formulas",
    "making.links",
    "making.notebooks",
]
exclude_patterns = ["making"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # annotations name inner types, and other libraries's

# Pages
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_excludepatterns = ["notebooks/*"]  # they hold their outputs
nb_execution_in_temp = True
nb_execution_show_tb = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_ipywidgets_js = {}  # they would come from elsewhere
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = ["Source", ("Attributes", "params_style")]
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88

# The theme
html_theme = "sphinx_book_theme"
html_title = "funcnet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {"use_download_button": False, "show_navbar_depth": 1}
