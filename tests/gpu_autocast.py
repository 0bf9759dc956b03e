"""Autocast as it is on a GPU, where norms and softmaxes come out in float32, on a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# of torch's list (ATen/autocast_mode.h) what backbones use; a processor's list has none of these
_IN_FLOAT32 = {
    F.group_norm,
    F.layer_norm,
    F.log_softmax,
    F.softmax,
    Tensor.exp,
    Tensor.log,
    Tensor.pow,
    Tensor.prod,
    Tensor.reciprocal,
    Tensor.rsqrt,
    Tensor.softmax,
    Tensor.sum,
    torch.exp,
    torch.group_norm,
    torch.layer_norm,
    torch.linalg.vector_norm,
    torch.log,
    torch.pow,
    torch.prod,
    torch.softmax,
    torch.sum,
}


class _InFloat32(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function not in _IN_FLOAT32 or not torch.is_autocast_enabled('cpu'):
            return function(*args, **kwargs)
        with torch.autocast('cpu', enabled=False):
            return function(*map(_as_float32, args), **kwargs)


def _as_float32(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


@contextmanager
def gpu_autocast(dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """``torch.autocast('cuda', dtype)`` for tensors on a processor."""
    with _InFloat32(), torch.autocast('cpu', dtype):
        yield
