"""How the documentation site is built."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "pytest-workflow-core"
author = "The pytest-workflow-core developers"
project_copyright = "The pytest-workflow-core developers"
release = installed_version("pytest-workflow-core")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["ref.python"]  # a name that several classes have, in a type

default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
napoleon_google_docstring = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "pytest-workflow-core"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_sourcelink = False
html_copy_source = False
