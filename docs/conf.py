"""The site: ``make docs`` builds it into docs/_build/html, warnings are errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmrest.version import __version__  # noqa: E402

project = 'mmrest'
author = 'the mmrest developers'
copyright = f'2026, {author}. Apache-2.0'
release = version = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
# the other markdown files are parts that scripts put into the pages
exclude_patterns = ['_build', 'benchmarks/*', 'models/*', 'reliability/*', 'scripts']
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = 'furo'
html_title = f'mmrest {version}'
html_static_path = ['_static']
html_copy_source = False
copybutton_exclude = '.linenos, .gp, .go'

# for `make docs-links`, which needs the internet
linkcheck_anchors = False
linkcheck_timeout = 20
