"""Implementations of attention as operators of torch: differentiable, traceable, counted.

An implementation is a function for the forward pass, (q, k, v, mix_weight, mix_bias, eps) -> (out,
scale and other statistics), and one for the backward pass, (grad, q, k, v, mix_weight, out,
statistics) -> gradients of q, k, v and mix_weight. As operators, torch.compile takes each as one
node without looking inside, and torch's ``FlopCounterMode`` knows its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def empty_tokens(
    q: Tensor, channels: int | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """(B, heads, N, channels) in the layout (B, N, heads, channels) of tokens.

    Args:
        q: (B, heads, N, head_dim).
        channels: None takes ``head_dim``.
        dtype: None takes that of ``q``.
    """
    batch, heads, queries, head_dim = q.shape
    channels = head_dim if channels is None else channels
    return q.new_empty(batch, queries, heads, channels, dtype=dtype).transpose(1, 2)


def register_attention(
    name: str, forward: Callable, backward: Callable, row_statistics: int
) -> None:
    """Register an implementation as ``mmrest::<name>`` and ``mmrest::<name>_backward``.

    Args:
        name: Of the operator.
        forward: Returns the output (B, heads, N, head_dim), in the layout of ``empty_tokens``,
            the factor of each map (B, heads), and further statistics.
        backward: Returns four gradients; that of a missing ``mix_weight`` has no elements.
        row_statistics: How many statistics (B, heads, N) follow the factor.
    """
    statistics = ', '.join(['Tensor'] * (1 + row_statistics))
    named = ', '.join(f'Tensor statistic{i}' for i in range(1 + row_statistics))
    operator = torch.library.custom_op(
        f'mmrest::{name}',
        forward,
        mutates_args=(),
        schema='(Tensor q, Tensor k, Tensor v, Tensor? mix_weight, Tensor? mix_bias, float eps)'
        f' -> (Tensor, {statistics})',
    )
    backward_operator = torch.library.custom_op(
        f'mmrest::{name}_backward',
        backward,
        mutates_args=(),
        schema='(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mix_weight, Tensor? out, '
        f'{named}) -> (Tensor, Tensor, Tensor, Tensor)',
    )

    def fake_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(q.dtype, torch.float32)
        rows = (q.new_empty(q.shape[:3], dtype=dtype) for _ in range(row_statistics))
        return empty_tokens(q, v.shape[3], v.dtype), q.new_empty(q.shape[:2], dtype=dtype), *rows

    def fake_backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mix_weight: Tensor | None, *_: Any
    ) -> tuple[Tensor, ...]:
        mix_grad = q.new_empty(0) if mix_weight is None else torch.empty_like(mix_weight)
        return empty_tokens(q), k.new_empty(k.shape), v.new_empty(v.shape), mix_grad

    def save(ctx: Any, inputs: Sequence, output: tuple[Tensor, ...]) -> None:
        out, *statistics = output
        ctx.mark_non_differentiable(*statistics)
        # only the normalisation's gradient asks for the output
        ctx.save_for_backward(*inputs[:5], None if inputs[3] is None else out, *statistics)

    def differentiate(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        q, k, v, mix_weight, mix_bias, *output = ctx.saved_tensors
        dq, dk, dv, mix_grad = backward_operator(grad, q, k, v, mix_weight, *output)
        # the bias is a constant along a row, which a softmax does not see
        bias_grad = None if mix_bias is None else torch.zeros_like(mix_bias)
        return dq, dk, dv, None if mix_weight is None else mix_grad, bias_grad, None

    operator.register_fake(fake_forward)
    backward_operator.register_fake(fake_backward)
    operator.register_autograd(differentiate, setup_context=save)
    operators = torch.ops.mmrest
    register_flop_formula(getattr(operators, name))(_count_forward)
    register_flop_formula(getattr(operators, f'{name}_backward'))(_count_backward)


def _count_forward(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], mix: Any, *_: Any, **__: Any
) -> int:
    batch, heads, queries, head_dim = q
    pairs = batch * heads * queries * k[2]
    return 2 * pairs * (head_dim + v[3]) + (2 * pairs * heads if mix is not None else 0)


def _count_backward(
    grad: Any, q: Sequence[int], k: Sequence[int], v: Sequence[int], mix: Any, *_: Any, **__: Any
) -> int:
    batch, heads, queries, head_dim = q
    pairs = batch * heads * queries * k[2]
    # the logits again, and gradients of four matrices; the mix, and both its gradients
    products = 2 * pairs * (3 * head_dim + 2 * v[3])
    return products + (6 * pairs * heads if mix is not None else 0)
