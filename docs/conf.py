"""Sphinx settings."""

import shutil
from pathlib import Path

import lemon_sc

HERE = Path(__file__).parent

project = "lemon_sc"
author = "The lemon_sc developers"
copyright = f"2026, {author}"
release = version = lemon_sc.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "literal"  # single backticks in docstrings name code

nb_execution_mode = "off"  # tutorials are executed by tutorials/build.py and kept with their outputs
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_title = "lemon_sc"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the sidebar has a search field already
}


def copy_tutorials() -> None:
    """Bring the notebooks under the documentation's own folder, where Sphinx can read them."""
    target = HERE / "tutorials"
    target.mkdir(exist_ok=True)
    for notebook in sorted((HERE.parent / "tutorials").glob("*.ipynb")):
        shutil.copyfile(notebook, target / notebook.name)


def split_returns(app, what, name, obj, options, lines) -> None:
    """Show "Nothing. Adds to the table:" and its list as they are written, not as the type of a return value."""
    if what != "function" or "Returns" not in lines:
        return
    start = lines.index("Returns")
    end = next((i - 1 for i in range(start + 2, len(lines)) if set(lines[i]) == {"-"}), len(lines))
    body = list(lines[start + 2 : end])
    lines[start:end] = ["", ".. rubric:: Returns", "", *body, ""]


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", split_returns, priority=400)  # before napoleon, at 500


copy_tutorials()
