"""Operators of torch, differentiable, traceable and counted; of attention above all.

An implementation of attention is a function for the forward pass, (q, k, v, mix_weight, mix_bias,
eps) -> (out, scale and other statistics), and one for the backward pass, (grad, q, k, v,
mix_weight, out, statistics) -> gradients of q, k, v and mix_weight. As operators, torch.compile
takes each as one node without looking inside, and torch's ``FlopCounterMode`` knows its arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.errors import InputError


def register_operator(
    name: str,
    function: Callable,
    schema: str,
    fake: Callable,
    differentiate: Callable | None = None,
    save: Callable | None = None,
    any_order: bool = False,
) -> None:
    """Register a function as ``torch.ops.mmrest.<name>``.

    ``torch.library.custom_op`` does the same, but at the first call it imports torch's compiler,
    some 200 modules, also for whoever does not compile.

    Args:
        name: Of the operator.
        function: Computes it; the results share no memory with what it is given.
        schema: Its arguments and results, in torch's words.
        fake: Gives empty results of the right shapes, types and layouts.
        differentiate: See :func:`torch.library.register_autograd`; None: it has no gradients.
        save: As its ``setup_context``.
        any_order: ``differentiate`` has derivatives itself.
    """
    qualified = f'mmrest::{name}'
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, 'default', _hidden_from_compiler(function))
    torch.library.register_fake(qualified, fake)
    if differentiate is None:
        return

    def differentiate_once(ctx: Any, *grads: Any) -> Any:
        if not any_order:
            refuse_second_derivatives()
        return differentiate(ctx, *grads)

    torch.library.register_autograd(qualified, differentiate_once, setup_context=save)


def refuse_second_derivatives() -> None:
    """To be called first in a backward pass that has no derivative.

    Without it torch would take that derivative for zero in some places.

    Raises:
        InputError: The backward pass is to be differentiated (``create_graph=True``).
    """
    # torch enables gradients in a backward pass for that alone
    if torch.is_grad_enabled():
        raise InputError(
            'mmrest: fast operators have no second derivatives (create_graph=True); '
            "MMREST_ATTENTION=reference or `with mmrest.ops.use_implementation('reference'):` "
            'around the forward pass takes those that have'
        )


def _hidden_from_compiler(function: Callable) -> Callable:
    """As ``torch.compiler.disable``, once somebody has imported the compiler."""
    disabled = None

    @wraps(function)
    def call(*args: Any) -> Any:
        nonlocal disabled
        if 'torch._dynamo' not in sys.modules:
            return function(*args)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*args)

    return call


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

    register_operator(
        name,
        forward,
        '(Tensor q, Tensor k, Tensor v, Tensor? mix_weight, Tensor? mix_bias, float eps)'
        f' -> (Tensor, {statistics})',
        fake_forward,
        differentiate,
        save,
    )
    register_operator(
        f'{name}_backward',
        backward,
        '(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mix_weight, Tensor? out, '
        f'{named}) -> (Tensor, Tensor, Tensor, Tensor)',
        fake_backward,
    )
    backward_operator = getattr(torch.ops.mmrest, f'{name}_backward')
    register_flop_formula(getattr(torch.ops.mmrest, name))(count_attention)
    register_flop_formula(backward_operator)(count_attention_backward)


def count_attention(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], mix: Any, *_: Any, **__: Any
) -> int:
    """FLOPs of a forward pass, from shapes."""
    batch, heads, queries, head_dim = q
    pairs = batch * heads * queries * k[2]
    return 2 * pairs * (head_dim + v[3]) + (2 * pairs * heads if mix is not None else 0)


def count_attention_backward(
    grad: Any, q: Sequence[int], k: Sequence[int], v: Sequence[int], mix: Any, *_: Any, **__: Any
) -> int:
    """FLOPs of a backward pass, from shapes."""
    batch, heads, queries, head_dim = q
    pairs = batch * heads * queries * k[2]
    # the logits again, and gradients of four matrices; the mix, and both its gradients
    products = 2 * pairs * (3 * head_dim + 2 * v[3])
    return products + (6 * pairs * heads if mix is not None else 0)
