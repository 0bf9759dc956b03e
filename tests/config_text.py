"""Importing this makes configs text without yapf, which takes seconds of every short run.

mmengine formats a run's config five times: for the log, the work directory and the checkpoints.
"""

from __future__ import annotations

import ast

from yapf.yapflib import yapf_api


def format_code(text: str, **_: object) -> tuple[str, bool]:
    """As ``yapf_api.FormatCode``, and an error for what is no Python, too."""
    return ast.unparse(ast.parse(text)), True


yapf_api.FormatCode = format_code
