"""The papers' equations, literally: the readable twin of every implementation.

They serve whatever the fast ones cannot: tracing, forward-mode AD, empty tensors, second
derivatives. Every attention map is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(q k^T / sqrt(head_dim) + bias) v``; see :func:`mmrest.ops.attention`."""
    logits = _logits(q, k) if bias is None else _logits(q, k) + bias
    return logits.softmax(dim=-1) @ v


def attention_with_positions(
    q: Tensor, k: Tensor, v: Tensor, row_logits: Tensor, column_logits: Tensor
) -> Tensor:
    """``softmax(q k^T / sqrt(head_dim) + positions) v``; see the function of the same name."""
    positions = (row_logits[..., :, None] + column_logits[..., None, :]).flatten(3)
    return attention(q, k, v, F.pad(positions, (k.shape[2] - positions.shape[3], 0)))


def emsa(
    q: Tensor, k: Tensor, v: Tensor, mix_heads: Callable[[Tensor], Tensor], eps: float = 1e-5
) -> Tensor:
    """``instance_norm(softmax(mix_heads(q k^T / sqrt(head_dim)))) v`` (ResT, Eq. 4).

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        mix_heads: From logits (B, heads, N, M) to the same shape.
        eps: Added to the variance of the map.

    Returns:
        (B, heads, N, head_dim), in the dtype of ``v``.
    """
    logits = _logits(q, k)
    if not torch.compiler.is_compiling() and 0 in logits.shape[1:]:
        return logits.to(v.dtype) @ v  # sums over nothing
    mixed = mix_heads(logits)
    # an explicit dtype keeps the statistics in float32 under autocast and in half precision
    probs = mixed.softmax(dim=-1, dtype=torch.promote_types(mixed.dtype, torch.float32))
    if probs.shape[2] * probs.shape[3] > 1:
        normalised = F.instance_norm(probs, eps=eps)
    else:  # F.instance_norm refuses it
        normalised = probs * 0
    return normalised.to(v.dtype) @ v


def mix_by(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The 1x1 convolution across heads, of (heads, heads) and (heads,), for :func:`emsa`."""

    def mix_heads(logits: Tensor) -> Tensor:
        cast = None if bias is None else bias.to(logits.dtype)
        return F.conv2d(logits, weight.to(logits.dtype)[:, :, None, None], cast)

    return mix_heads


def pool_heads(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A depthwise convolution of every head's map alone; see :func:`mmrest.ops.pool_heads`."""
    heads, channels, padding = x.shape[3], x.shape[4], weight.shape[2] // 2
    maps = x.permute(0, 3, 4, 1, 2).flatten(0, 1)
    pooled = F.conv2d(maps, weight, None, stride, padding, groups=channels)
    return pooled.unflatten(0, (-1, heads)).permute(0, 3, 4, 1, 2)


def mlp(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    """``fc2(gelu(fc1(x)))``; see :func:`mmrest.ops.mlp`."""
    return F.linear(F.gelu(F.linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)


def _logits(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
