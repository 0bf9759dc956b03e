"""The way in which attention is computed, as the user asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmrest.errors import InputError

VARIABLE = 'MMREST_ATTENTION'
WAYS = ('auto', 'reference', 'blockwise', 'triton')

_requested = os.environ.get(VARIABLE) or 'auto'


def requested_way(way: str | None = None) -> str:
    """``way``, else what the context asks for, else what the environment does.

    Raises:
        InputError: There is no such way.
    """
    way = way or _requested
    if way not in WAYS:
        raise InputError(
            f'attention the way {way!r} (argument or environment variable {VARIABLE}) is unknown; '
            f'it is one of {", ".join(WAYS)}'
        )
    # what reads a trace, mmengine's count of operations for example, knows torch's own operators
    return 'reference' if way == 'auto' and torch.jit.is_tracing() else way


@contextmanager
def attention_way(way: str) -> Iterator[None]:
    """Within this context attention is computed ``way``, as if the environment asked for it.

    Raises:
        InputError: There is no such way.
    """
    global _requested
    before = _requested
    requested_way(way)
    _requested = way
    try:
        yield
    finally:
        _requested = before
