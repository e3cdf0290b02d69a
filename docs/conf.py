"""Configuration of the documentation: `make docs`."""

project = "glassgate"
author = "The glassgate authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "glassgate"
exclude_patterns = ["build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = False
# "width" and other plain words are attributes of several classes; as the type of a parameter they mean none.
suppress_warnings = ["ref.python"]
