"""Sphinx settings."""

from importlib.metadata import version as installed_version

project = "betcore_async"
release = version = installed_version("betcore_async")
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"betcore_async {release}"
