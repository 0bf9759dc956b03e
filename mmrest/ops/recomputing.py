"""What takes much memory and little time to compute is computed again in the backward pass.

``torch.utils.checkpoint`` does the same for whole blocks (``with_cp``); at its first call it
imports torch's compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmrest.ops import dispatch
from mmrest.ops.registration import refuse_second_derivatives


def recompute(function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """``function(*tensors)``, of which nothing but the tensors is kept for gradients.

    Args:
        function: Computes the same whenever it is called, from nothing but the tensors.
        tensors: On a processor, where :func:`.dispatch.uses_onednn`. Parameters are among them, so
            that they have their gradients, hooks and checks as in any other operation.
    """
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
        """Runs without gradients."""
        ctx.function, ctx.implementation = function, dispatch.requested()
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Perhaps in another thread."""
        refuse_second_derivatives()
        needed = ctx.needs_input_grad[1:]
        again = [
            None if tensor is None else tensor.detach().requires_grad_(is_needed)
            for tensor, is_needed in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad(), dispatch.use_implementation(ctx.implementation):
            out = ctx.function(*again)
        wanted = [t for t, is_needed in zip(again, needed, strict=True) if is_needed]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return None, *(next(grads) if is_needed else None for is_needed in needed)
