"""How Sphinx builds these pages: ``sphinx-build -W -b html docs OUT``."""

from lstm_xp import __version__

project = "lstm_xp"
version = release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
default_role = "literal"
html_theme = "alabaster"

autodoc_typehints = "none"  # the docstrings name types and shapes
numpydoc_show_class_members = False

myst_heading_anchors = 3
