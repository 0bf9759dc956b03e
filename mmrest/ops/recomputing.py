"""What takes much memory and little time to compute is computed again in the backward pass.

``torch.utils.checkpoint`` does the same for whole blocks (``with_cp``); at its first call it
imports torch's compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmrest.ops import dispatch
from mmrest.ops.strips import Strip, compute_in_strips


def recompute(
    function: Callable[..., Tensor],
    x: Tensor,
    *tensors: Tensor | None,
    strips: list[Strip] | None = None,
) -> Tensor:
    """``function(x, *tensors)``, of which nothing but the tensors is kept for gradients.

    Args:
        function: Computes the same whenever it is called, from nothing but the tensors.
        x: On a processor, where :func:`.dispatch.uses_onednn`; with ``strips`` a map
            (B, H, W, ...).
        tensors: Likewise. Parameters are among them, so that they have their gradients, hooks and
            checks as in any other operation.
        strips: Of the map, which the function is called with one after the other; None is the
            whole.
    """
    if strips is not None and len(strips) == 1:
        strips = None
    return _Recomputed.apply(function, strips, x, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        strips: list[Strip] | None,
        x: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        """Runs without gradients."""
        ctx.function, ctx.strips, ctx.implementation = function, strips, dispatch.requested()
        ctx.save_for_backward(x, *tensors)
        if strips is None:
            return function(x, *tensors)
        return compute_in_strips(lambda rows, kept: function(rows, *tensors)[:, kept], x, strips)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Perhaps in another thread."""
        x, *tensors = ctx.saved_tensors
        if ctx.strips is None:
            return None, None, *_differentiate(ctx, grad, x, *tensors)
        totals = [
            torch.zeros_like(t) if is_needed else None
            for t, is_needed in zip((x, *tensors), ctx.needs_input_grad[2:], strict=True)
        ]
        for strip in ctx.strips:
            seen = strip.images, strip.seen
            grad_rows = grad[strip.images, strip.rows]
            grads = _differentiate(ctx, grad_rows, x[seen], *tensors, kept=strip.kept)
            targets = None if totals[0] is None else totals[0][seen], *totals[1:]
            for target, part in zip(targets, grads, strict=True):
                if target is not None:
                    target += part
        return None, None, *totals


def _differentiate(
    ctx: Any, grad: Tensor, *tensors: Tensor | None, kept: slice | None = None
) -> list[Tensor | None]:
    """Gradients of the tensors for that of the kept rows of the function, computed again."""
    needed = ctx.needs_input_grad[2:]
    again = [
        None if tensor is None else tensor.detach().requires_grad_(is_needed)
        for tensor, is_needed in zip(tensors, needed, strict=True)
    ]
    with torch.enable_grad(), dispatch.use_implementation(ctx.implementation):
        out = ctx.function(*again)
        out = out if kept is None else out[:, kept]
    wanted = [t for t, is_needed in zip(again, needed, strict=True) if is_needed]
    grads = iter(torch.autograd.grad(out, wanted, grad))
    return [next(grads) if is_needed else None for is_needed in needed]
