"""How Sphinx builds these pages: ``sphinx-build -W -b html docs OUT``."""

import os

from lstm_xp import __version__

os.environ.setdefault("KERAS_BACKEND", "torch")  # the module for Keras is imported for its docstring

project = "lstm_xp"
version = release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
default_role = "literal"
html_theme = "alabaster"

autodoc_typehints = "none"  # the docstrings name types and shapes
numpydoc_show_class_members = False

myst_heading_anchors = 3
