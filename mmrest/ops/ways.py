"""The way in which attention is computed, as the user asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.autograd import forward_ad

from mmrest.errors import InputError

VARIABLE = 'MMREST_ATTENTION'
WAYS = ('auto', 'reference', 'blockwise', 'triton')

# of each thread and asynchronous task
_requested: ContextVar[str] = ContextVar(
    'attention_way', default=os.environ.get(VARIABLE) or 'auto'
)


@torch.compiler.assume_constant_result
def _in_this_context() -> str:
    """The request; what is compiled keeps that which it was compiled under."""
    return _requested.get()


def requested_way(way: str | None = None) -> str:
    """``way``, else what the context asks for, else what the environment does.

    Raises:
        InputError: There is no such way.
    """
    way = way or _in_this_context()
    if way not in WAYS:
        raise InputError(
            f'attention the way {way!r} (argument or environment variable {VARIABLE}) is unknown; '
            f'it is one of {", ".join(WAYS)}'
        )
    # what reads a trace, mmengine's count of operations for example, knows torch's own operators
    traced = way == 'auto' and torch.jit.is_tracing()
    return 'reference' if traced or _is_transformed() else way


def _is_transformed() -> bool:
    """True under forward-mode AD and torch.func's transforms.

    They see through torch's own operators alone; through others forward-mode AD takes derivatives
    for zero, without a word.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@contextmanager
def attention_way(way: str) -> Iterator[None]:
    """Within this context attention is computed ``way``, as if the environment asked for it.

    Other threads do not notice.

    Raises:
        InputError: There is no such way.
    """
    requested_way(way)
    token = _requested.set(way)
    try:
        yield
    finally:
        _requested.reset(token)
