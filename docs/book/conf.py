"""Sphinx's settings for the book: ``make book`` builds it. No network, no torch, no execution.

The pages lie in build/book-source, where ``sources.py`` has gathered them.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # errors.py

project = html_title = "PyTorch quantization, step by step"
author = "the Blaze quantization tutorial authors"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.napoleon", "autoapi.extension"]
root_doc = "README"
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"
nb_code_prompt_show, nb_code_prompt_hide = "Show the solution", "Hide the solution"
# Fragments are written as Jupyter makes them; named, not imported, as it must be picklable.
myst_heading_anchors = 4
myst_heading_slug_func = "errors.anchor"
myst_enable_extensions = ["dollarmath", "html_image"]

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" of a dataclass, which are listed as members, too

# The helper package is read and not imported; a name of torch's cannot be followed.
autoapi_dirs = [str(HERE.parents[1] / "blaze_utils")]
autoapi_options = ["members", "show-module-summary"]
autoapi_python_class_content = "class"
autoapi_add_toctree_entry = False
suppress_warnings = ["autoapi.python_import_resolution"]

html_math_renderer = "mathml"  # a few formulas: no MathJax, which would come from a CDN
html_theme = "furo"
html_static_path, html_css_files = ["static"], ["book.css"]
html_extra_path = ["index.html"]  # goes to README.html
html_search_scorer = str(HERE / "scorer.js")
html_copy_source = html_show_sourcelink = html_show_copyright = False


# The character is raised by itself: as a superscript it would be raised twice.
PRIME = r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>"


def mathml(display):
    """Write a formula as MathML, which browsers draw by themselves."""

    def visit(translator, node):
        text = convert(node.astext(), display=display)
        translator.body.append(re.sub(PRIME, r"\1<mo lspace='0'>&#x02032;</mo>", text))
        raise nodes.SkipNode

    return visit, None


def adapt(app, pagename, templatename, context, doctree):
    """Say which pages are Chinese; and a file that is linked to opens, it is not downloaded."""
    if "zh" in pagename:
        context["language"] = "zh-CN"
    context["body"] = context.get("body", "").replace(' download=""', "")


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))
    app.connect("html-page-context", adapt)
