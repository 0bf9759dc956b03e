"""Efficient multi-head self-attention of ResT (arXiv 2105.13677, Section 3.1, Eq. 4).

ResT mixes the attention logits across heads before the softmax and instance-normalises every
head's whole (queries x keys) map after it. With P one head's map after the softmax, every row of
P sums to one, so its mean is exactly 1 / M for M keys, and with N queries and D = P - 1 / M

    InstanceNorm(P) V = D V / sqrt(sum(D^2) / (N M) + eps)

needs two sums over the map, never the whole map at once. They are taken here over blocks of
queries, which are recomputed in the backward pass. (Subtracting 1 / M before squaring, not after,
keeps float32 exact where few keys make 1 / M^2 much larger than the variance.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Queries of a block are chosen so that a block's map has about this many elements: small enough
# to stay in a processor's outer cache, large enough that launching it costs little.
_BLOCK_ELEMENTS = 2**20


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor | None = None,
    mix_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Attention with heads mixed before the softmax and the map normalised after it.

    Without ``mix_weight`` this is plain scaled dot-product attention, as ResT uses where a stage
    has a single head. The logits are scaled by ``head_dim ** -0.5``.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        mix_weight: The 1x1 convolution across heads, (heads, heads).
        mix_bias: Its bias (heads,). It is constant along a row of the map and therefore has no
            effect after the softmax; it is accepted so that its gradient exists (and is zero).
        eps: Added to the variance of the map.

    Returns:
        (B, heads, N, head_dim), in the dtype of ``v``.
    """
    if mix_weight is None:
        return F.scaled_dot_product_attention(q, k, v)

    queries, keys = q.shape[2], k.shape[2]
    block = max(1, _BLOCK_ELEMENTS // (q.shape[0] * q.shape[1] * keys))
    recompute = torch.is_grad_enabled() and block < queries
    attended, squares = [], []
    for q_block in q.split(block, dim=2):
        if recompute:
            out, square = checkpoint(
                *(_attend, q_block, k, v, mix_weight, mix_bias),
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            out, square = _attend(q_block, k, v, mix_weight, mix_bias)
        attended.append(out)
        squares.append(square)
    variance = torch.stack(squares).sum(0) / (queries * keys)
    return (torch.cat(attended, dim=2) * (variance + eps).rsqrt()).to(v.dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mix_weight: Tensor, mix_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of n queries: D V (B, heads, n, head_dim) and sum(D^2) (B, heads, 1, 1), D = P - 1 / M."""
    logits = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    mixed = F.conv2d(logits, mix_weight[:, :, None, None].to(logits.dtype), mix_bias)
    # An explicit dtype keeps the softmax in float32 under autocast and in half precision.
    probs = mixed.softmax(dim=-1, dtype=torch.promote_types(mixed.dtype, torch.float32))
    deviation = probs - 1 / k.shape[2]
    return deviation.to(v.dtype) @ v, deviation.square().sum(dim=(-2, -1), keepdim=True)
