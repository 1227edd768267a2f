from importlib.metadata import version as installed_version

project = "ddrsapc"
author = "the ddrsapc developers"
version = release = installed_version("ddrsapc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "results"]
default_role = "code"
myst_heading_anchors = 2
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = f"ddrsapc {release}"
