"""What takes much memory and little time to compute is computed again in the backward pass.

``torch.utils.checkpoint`` does the same for whole blocks (``with_cp``); at its first call it
imports torch's compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmrest.ops import dispatch


def recompute(
    function: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """``function(x)``, of which nothing but ``x`` is kept for gradients.

    Args:
        function: Computes the same whenever it is called.
        x: On a processor, where :func:`.dispatch.uses_onednn`.
        parameters: All others that the result depends on, leaves of the graph.
    """
    return _Recomputed.apply(function, x, *parameters)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Runs without gradients."""
        ctx.function, ctx.parameters, ctx.implementation = (
            function,
            parameters,
            dispatch.requested(),
        )
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Perhaps in another thread."""
        (x,) = ctx.saved_tensors
        of_x, *of_parameters = ctx.needs_input_grad[1:]
        x = x.detach().requires_grad_(of_x)
        with torch.enable_grad(), dispatch.use_implementation(ctx.implementation):
            out = ctx.function(x)
        inputs = zip((x, *ctx.parameters), (of_x, *of_parameters), strict=True)
        needed = [t if is_needed else None for t, is_needed in inputs]
        grads = iter(torch.autograd.grad(out, [t for t in needed if t is not None], grad))
        return None, *(None if t is None else next(grads) for t in needed)
