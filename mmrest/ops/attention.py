"""Attention of the backbones: plain, and that of ResT, each in several ways that agree.

=============  =====================================================================================
way            what it is
=============  =====================================================================================
``reference``  the papers' equations, literally: every attention map is stored (linear layers are
               torch's own, and the MLP is computed at once, too)
``blockwise``  exact in memory linear in the tokens, any device and dtype (:mod:`.blockwise`)
``triton``     the same as one kernel a pass, for GPUs (:mod:`.triton_emsa`); ResT's attention alone
``fused``      torch's ``scaled_dot_product_attention``; plain attention alone
=============  =====================================================================================

Without a request the fastest that can serve is taken. A request is the argument ``way``, else the
environment variable ``MMREST_ATTENTION``: ``reference``, ``blockwise``, ``triton`` or ``auto``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.errors import InputError
from mmrest.ops import products
from mmrest.ops.blockwise import attend_blockwise
from mmrest.ops.triton_emsa import attend_by_triton, is_fast, why_not_triton
from mmrest.ops.ways import requested_way

# Maps with fewer elements a head are better left to torch's fused attention.
_SMALLEST_BLOCKWISE_MAP = 2**18


def attention(q: Tensor, k: Tensor, v: Tensor, way: str | None = None) -> Tensor:
    """Plain scaled dot-product attention; the logits are scaled by ``head_dim ** -0.5``.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        way: See the module's table; ``'triton'`` is ``fused`` here.

    Returns:
        (B, heads, N, head_dim).

    Raises:
        InputError: There is no such way, or the shapes do not go together.
    """
    way = _choose(way, q, k, v)
    if way == 'reference':
        return ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v
    if way == 'blockwise' or (way == 'auto' and _blockwise_beats_fused(q, k)):
        return attend_blockwise(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor | Callable[[Tensor], Tensor],
    mix_bias: Tensor | None = None,
    eps: float = 1e-5,
    dropout: float = 0.0,
    way: str | None = None,
) -> Tensor:
    """Efficient multi-head self-attention of ResT (arXiv 2105.13677, Section 3.1, Eq. 4).

    Logits, scaled by ``head_dim ** -0.5``, are mixed across heads before the softmax, and every
    head's whole map is instance-normalised (without affine parameters) after it.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        mix_weight: The 1x1 convolution across heads, (heads, heads); or any function of the logits
            (B, heads, N, M), for which the attention map is stored.
        mix_bias: Its bias (heads,). It is constant along a row of the map and therefore has no
            effect after the softmax; it is accepted so that its gradient exists (and is zero).
        eps: Added to the variance of the map.
        dropout: Probability that an element of the normalised map is zeroed. Then the map has to
            be stored: ``reference`` is used, with a warning.
        way: See the module's table.

    Returns:
        (B, heads, N, head_dim), in the dtype of ``v``.

    Raises:
        InputError: There is no such way, the shapes do not go together, or ``triton`` is asked for
            and cannot serve; the message says why.
    """
    way = _choose(way, q, k, v)
    if not isinstance(mix_weight, Tensor):
        return _normalised_attention(mix_weight((q @ k.mT) * q.shape[-1] ** -0.5), v, eps)
    if mix_weight.shape != (q.shape[1], q.shape[1]):
        raise InputError(
            f'emsa: mix_weight {tuple(mix_weight.shape)} must be (heads, heads), and there are '
            f'{q.shape[1]} heads'
        )
    if dropout:
        if way != 'reference':
            warnings.warn(
                f'attention dropout {dropout} needs the stored attention map: computing it the '
                'reference way',
                stacklevel=2,
            )
        return _emsa_reference(q, k, v, mix_weight, mix_bias, eps, dropout)
    if way == 'reference':
        return _emsa_reference(q, k, v, mix_weight, mix_bias, eps)
    obstacle = why_not_triton(q, v) if way in ('auto', 'triton') else ''
    if way == 'triton' and obstacle:
        raise InputError(f"attention the way 'triton': {obstacle}; take 'blockwise' or 'auto'")
    by_triton = way == 'triton' or (way == 'auto' and not obstacle and is_fast(q))
    attend = attend_by_triton if by_triton else attend_blockwise
    return attend(q, k, v, mix_weight, mix_bias, eps)


def _choose(way: str | None, q: Tensor, k: Tensor, v: Tensor) -> str:
    """The way that serves, after a check of the shapes; for empty tensors that is the literal one.

    Raises:
        InputError: The shapes do not go together, or there is no such way.
    """
    way = requested_way(way)
    if torch.compiler.is_compiling():
        return way
    fits = q.ndim == k.ndim == v.ndim == 4 and k.shape == v.shape
    if not fits or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise InputError(
            'attention: queries must be (B, heads, N, head_dim), keys and values (B, heads, M, '
            f'head_dim), got {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}'
        )
    return 'reference' if 0 in q.shape or 0 in k.shape else way


def _emsa_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    eps: float,
    dropout: float = 0.0,
) -> Tensor:
    logits = (q @ k.mT) * q.shape[-1] ** -0.5
    if not torch.compiler.is_compiling() and 0 in logits.shape[1:]:
        return logits.to(v.dtype) @ v  # sums over nothing
    weight, bias = (t if t is None else t.to(logits.dtype) for t in (mix_weight, mix_bias))
    mixed = F.conv2d(logits, weight[:, :, None, None], bias)
    return _normalised_attention(mixed, v, eps, dropout)


def _normalised_attention(mixed: Tensor, v: Tensor, eps: float, dropout: float = 0.0) -> Tensor:
    """Softmax and instance norm of the mixed logits (B, heads, N, M), times the values."""
    # An explicit dtype keeps the statistics in float32 under autocast and in half precision.
    probs = mixed.softmax(dim=-1, dtype=torch.promote_types(mixed.dtype, torch.float32))
    if probs.shape[2] * probs.shape[3] > 1:
        normalised = F.instance_norm(probs, eps=eps)
    else:  # F.instance_norm refuses it
        normalised = probs * 0
    return F.dropout(normalised, dropout).to(v.dtype) @ v


def _blockwise_beats_fused(q: Tensor, k: Tensor) -> bool:
    # fused attention multiplies by MKL
    if products.FAST_MKL or not products.prefers_onednn(q):
        return False
    # a compiled graph would hold for the smaller or for the larger maps alone
    return torch.compiler.is_compiling() or q.shape[2] * k.shape[2] >= _SMALLEST_BLOCKWISE_MAP
