"""Autocast as it is on a GPU, where norms and softmaxes come out in float32, on a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

# of torch's list (ATen/autocast_mode.h) what backbones use; a processor's list has none of these
_IN_FLOAT32: tuple[tuple[ModuleType | type, str], ...] = (
    *((F, name) for name in ('group_norm', 'layer_norm', 'log_softmax', 'softmax')),
    *(
        (owner, name)
        for owner in (torch, Tensor)
        for name in (*('exp', 'log', 'pow', 'prod', 'rsqrt'), *('softmax', 'log_softmax', 'sum'))
    ),
    (torch.linalg, 'vector_norm'),
)


@contextmanager
def gpu_dtypes() -> Iterator[None]:
    """Within it ``torch.autocast('cpu')`` gives norms and softmaxes the dtype that a GPU's does."""
    with ExitStack() as stack:
        for owner, name in _IN_FLOAT32:
            wrapped = _in_float32(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        yield


def _in_float32(function: Callable) -> Callable:
    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not torch.is_autocast_enabled('cpu'):
            return function(*args, **options)
        with torch.autocast('cpu', enabled=False):
            return function(*map(_as_float32, args), **options)

    return call


def _as_float32(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value
