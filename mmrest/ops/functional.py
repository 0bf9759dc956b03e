"""The operators of the backbones as functions, in the manner of ``torch.nn.functional``.

:mod:`.dispatch` chooses who computes them; :mod:`.reference` says what they compute.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.errors import InputError
from mmrest.ops import dispatch, reference
from mmrest.ops.autocast import as_autocast
from mmrest.ops.blockwise import (
    attend_blockwise,
    attend_blockwise_with_positions,
)
from mmrest.ops.convolution import conv_tokens
from mmrest.ops.cpu.linear import linear_by_onednn
from mmrest.ops.cpu.mlp import is_one_chunk, mlp_in_chunks
from mmrest.ops.tracing import is_exporting
from mmrest.ops.triton.emsa import attend_by_triton

# torch's memory-efficient attention on a GPU takes multiples of so many channels alone (of four in
# float32; check_head_dim_size_mem_efficient in ATen's sdp_utils.cpp), and would store the map else.
_FUSED_ALIGNMENT = 8


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Plain scaled dot-product attention; the logits are scaled by ``head_dim ** -0.5``.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, value_dim).
        bias: Added to the logits, (B, heads, N, M) or of a shape that broadcasts to it; a whole one
            costs as much memory as a map.

    Returns:
        (B, heads, N, value_dim).

    Raises:
        InputError: The shapes do not go together.
    """
    _check_shapes(q, k, v)
    q, k, v = as_autocast(q, k, v)
    implementation = dispatch.choose_attention(q, k)
    if implementation == 'reference':
        return reference.attention(q, k, v, bias)
    if bias is None and implementation == 'blockwise':
        return attend_blockwise(q, k, v)
    for_gpu = q.device.type != 'cpu' and not is_exporting()
    return _attend_fused(q, k, v, bias, -q.shape[3] % _FUSED_ALIGNMENT if for_gpu else 0)


def attention_with_positions(
    q: Tensor, k: Tensor, v: Tensor, row_logits: Tensor, column_logits: Tensor
) -> Tensor:
    """Attention to the cells of a map, whose logits have a part for each row and each column.

    No map of them is stored: in blocks they are added to a block's logits; elsewhere the parts
    become further channels of the queries, and the rows and columns of the keys, as one-hot
    vectors, further channels of the keys.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim); the last ``rows columns`` are the cells row by row, those
            before have no position (class tokens).
        v: Values (B, heads, M, value_dim).
        row_logits: What each query adds to the logits of each row, (B, heads, N, rows).
        column_logits: As ``row_logits``, (B, heads, N, columns).

    Returns:
        (B, heads, N, value_dim).

    Raises:
        InputError: The shapes do not go together.
    """
    _check_shapes(q, k, v)
    _check_positions(q, k, row_logits, column_logits)
    q, k, v, row_logits, column_logits = as_autocast(q, k, v, row_logits, column_logits)
    implementation = dispatch.choose_attention_with_positions(q, k)
    if implementation == 'reference':
        return reference.attention_with_positions(q, k, v, row_logits, column_logits)
    if implementation == 'blockwise':
        return attend_blockwise_with_positions(q, k, v, row_logits, column_logits)
    length = q.shape[3] + row_logits.shape[3] + column_logits.shape[3]
    # never none: a program would hold for maps alone that have some, or have none
    filling = _FUSED_ALIGNMENT - length % _FUSED_ALIGNMENT if q.device.type != 'cpu' else 0
    return attention(*_append_positions(q, k, row_logits, column_logits, filling), v)


def emsa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Efficient multi-head self-attention of ResT (arXiv 2105.13677, Section 3.1, Eq. 4).

    Logits, scaled by ``head_dim ** -0.5``, are mixed across heads before the softmax, and every
    head's whole map is instance-normalised (without affine parameters) after it.

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

    Raises:
        InputError: The shapes do not go together, or Triton is asked for and cannot serve; the
            message says why.
    """
    _check_shapes(q, k, v)
    if v.shape != k.shape and not torch.compiler.is_compiling():
        raise InputError(f'emsa: values {tuple(v.shape)} must have the shape of the keys')
    if mix_weight.shape != (q.shape[1], q.shape[1]):
        raise InputError(
            f'emsa: mix_weight {tuple(mix_weight.shape)} must be (heads, heads), and there are '
            f'{q.shape[1]} heads'
        )
    q, k, v = as_autocast(q, k, v)
    implementation = dispatch.choose_emsa(q, k, v)
    if implementation == 'reference':
        return reference.emsa(q, k, v, reference.mix_by(mix_weight, mix_bias), eps)
    attend = attend_by_triton if implementation == 'triton' else attend_blockwise
    return attend(q, k, v, mix_weight, mix_bias, eps)


def pool_heads(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A depthwise convolution of each head's map, with the same kernels for all heads.

    MViTv2 (arXiv 2112.01526): all heads are convolved at once where they are, as
    channels of one map.

    Args:
        x: (B, H, W, heads, head_dim).
        weight: (head_dim, 1, k, k), k odd; the map is padded by ``k // 2``.
        stride: Along both sides.

    Returns:
        (B, ceil(H / stride), ceil(W / stride), heads, head_dim).
    """
    if dispatch.is_reference(x):
        return reference.pool_heads(x, weight, stride)
    heads, head_dim = x.shape[3:]
    of_all, padding = weight.repeat(heads, 1, 1, 1), weight.shape[2] // 2
    maps = conv_tokens(x.flatten(3), of_all, None, stride, padding, heads * head_dim)
    return maps.unflatten(3, (heads, head_dim))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``.

    Args:
        x: (..., in_channels).
        weight: (out_channels, in_channels).
        bias: (out_channels,).

    Returns:
        (..., out_channels).
    """
    # torch says what is wrong with shapes
    if x.shape[-1] == weight.shape[-1] and dispatch.uses_onednn(x):
        return linear_by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def mlp(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    """``fc2(gelu(fc1(x)))``, the MLP of a transformer block.

    Args:
        x: (..., in_channels).
        fc1_weight: (hidden, in_channels).
        fc1_bias: (hidden,).
        fc2_weight: (out_channels, hidden).
        fc2_bias: (out_channels,).

    Returns:
        (..., out_channels).
    """
    if not dispatch.uses_onednn(x):
        return reference.mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    if _in_chunks(x, fc1_weight, fc2_weight):
        return mlp_in_chunks(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return linear(F.gelu(linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)


def normalized_mlp(
    x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float, *weights: Any
) -> Tensor:
    """``mlp(layer_norm(x), *weights)``; for gradients it keeps no more than ``x`` of large maps.

    Args:
        x: (..., in_channels).
        norm_weight: Of the LayerNorm over the channels, (in_channels,).
        norm_bias: As ``norm_weight``.
        eps: Added to the variance.
        weights: See :func:`mlp`.

    Returns:
        (..., out_channels).
    """
    if _in_chunks(x, weights[0], weights[2]):
        return mlp_in_chunks(x, *weights, norm_weight, norm_bias, eps)
    return mlp(F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps), *weights)


def _in_chunks(x: Tensor, fc1_weight: Tensor, fc2_weight: Tensor) -> bool:
    """True if the hidden layer of an MLP is computed in chunks."""
    fits = x.shape[-1] == fc1_weight.shape[-1] and len(fc1_weight) == fc2_weight.shape[-1]
    if not fits or not dispatch.uses_onednn(x):
        return False  # torch says what is wrong with shapes
    # a compiled graph would hold for the smaller or for the larger maps alone
    compiling = torch.compiler.is_compiling()
    return compiling or not is_one_chunk(x[..., 0].numel(), len(fc1_weight))


def _append_positions(
    q: Tensor, k: Tensor, row_logits: Tensor, column_logits: Tensor, filling: int
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products have the positions' parts; so many channels are zeros."""
    head_dim, rows, columns = q.shape[3], row_logits.shape[3], column_logits.shape[3]
    parts = [part.transpose(1, 2) for part in (q, row_logits, column_logits)]
    if filling:
        parts.append(q.new_zeros(*parts[0].shape[:3], filling))
    long_q = torch.cat(parts, dim=3).transpose(1, 2)
    # attention scales all logits by the longer queries' size, those of q by q's
    length = head_dim + rows + columns + filling
    places = _places_of_keys(k, rows, columns) * length**0.5
    long_k = torch.cat([k * (length / head_dim) ** 0.5, places.expand(*k.shape[:2], -1, -1)], dim=3)
    return long_q, F.pad(long_k, (0, filling)) if filling else long_k


def _places_of_keys(k: Tensor, rows: int, columns: int) -> Tensor:
    """Rows and columns of keys (B, heads, M, ...) as one-hot vectors, (M, rows + columns).

    The last ``rows columns`` keys are the cells row by row, those before have no place.
    """
    in_rows, in_columns = (
        torch.eye(side, dtype=k.dtype, device=k.device) for side in (rows, columns)
    )
    # not repeat_interleave, which ONNX does not get right for sizes that vary
    of_rows = in_rows[:, None].expand(-1, columns, -1).flatten(0, 1)
    places = torch.cat([of_rows, in_columns.repeat(rows, 1)], dim=1)
    return F.pad(places, (0, 0, k.shape[2] - rows * columns, 0))


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, filling: int) -> Tensor:
    """By torch's kernels; with so many channels more, if one that stores no map asks for them."""
    scale = None
    if filling:
        scale = q.shape[3] ** -0.5
        q, k = (F.pad(t, (0, filling)) for t in (q, k))
    # they take values of the same head_dim alone
    missing = q.shape[3] - v.shape[3]
    if missing <= 0 or (bias is not None and not filling):
        return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, missing)), bias, scale=scale)
    return out[..., :-missing]


def _check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    fits = q.ndim == k.ndim == v.ndim == 4 and k.shape[:3] == v.shape[:3]
    if not fits or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise InputError(
            'attention: queries must be (B, heads, N, head_dim), keys (B, heads, M, head_dim) and '
            f'values (B, heads, M, value_dim), got {tuple(q.shape)}, {tuple(k.shape)} and '
            f'{tuple(v.shape)}'
        )


def _check_positions(q: Tensor, k: Tensor, row_logits: Tensor, column_logits: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    fits = all(t.ndim == 4 and t.shape[:3] == q.shape[:3] for t in (row_logits, column_logits))
    if not fits or row_logits.shape[3] * column_logits.shape[3] > k.shape[2]:
        raise InputError(
            'attention_with_positions: the logits of rows and columns must be (B, heads, N, rows) '
            'and (B, heads, N, columns) with no more than M cells, for queries '
            f'{tuple(q.shape)} and keys {tuple(k.shape)} got {tuple(row_logits.shape)} and '
            f'{tuple(column_logits.shape)}'
        )
