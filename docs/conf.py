"""How the documentation site is built."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from importlib.metadata import version as installed_version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

import workflow_core.server  # noqa: F401 - before autodoc imports it with TYPE_CHECKING set, which pydantic cannot bear

if TYPE_CHECKING:
    from typing import Any

    from sphinx.application import Sphinx

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
html_favicon = str(files("workflow_core") / "server" / "dashboard" / "static" / "favicon.svg")
html_css_files = ["wide.css"]
html_show_sourcelink = False
html_copy_source = False

linkcheck_ignore = [r"http://(localhost|127\.0\.0\.1)", r"https?://([\w-]+\.)*example\.(com|org)"]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # made by scripts
linkcheck_timeout = 20
linkcheck_retries = 2

LONGEST_DESCRIPTION = 160
"""Characters, of which search engines show about as many."""

NAME_OF_A_TEST = re.compile(r'(?<=<span class="pre">)test_\w+(?=</span>)')

ROOT = Path(__file__).parents[1]
DRAFT = ["-m", "towncrier", "build", "--draft", "--version", "Unreleased", "--date", "changes since then"]


def add_unreleased_changes(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let the page of changes begin with those that wait in changelog.d for the next release."""
    del app
    if docname == "changelog":
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        title, mark, releases = text.partition("<!-- towncrier puts the next release below this line -->\n")
        done = subprocess.run([sys.executable, *DRAFT], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
        source[0] = "\n".join([title, mark, done.stdout, releases])


def describe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give a page its first paragraph as the description that search engines and previews show."""
    del app, pagename, templatename
    paragraph = doctree and doctree.next_node(nodes.paragraph)
    if paragraph:
        text = " ".join(paragraph.astext().split())
        short = text if len(text) <= LONGEST_DESCRIPTION else text[:LONGEST_DESCRIPTION].rpartition(" ")[0] + " ..."
        said = {
            'name="description"': short,
            'property="og:title"': context["title"],
            'property="og:description"': short,
        }
        context["metatags"] += "".join(f'<meta {what} content="{html.escape(text)}">' for what, text in said.items())


def let_names_of_tests_break(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let the long names of tests break at their underscores, so that they leave room in a table for the rest of it."""
    del app, pagename, templatename, doctree
    if "body" in context:
        context["body"] = NAME_OF_A_TEST.sub(lambda name: name[0].replace("_", "_<wbr>"), context["body"])


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("source-read", add_unreleased_changes)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", let_names_of_tests_break)
