"""ResT's attention for GPUs: one kernel for the forward pass, two for the backward pass.

The mathematics is that of :mod:`mmrest.ops.blockwise`. A program takes a block of queries (for the
gradients of keys and values: a block of keys) of an image through all heads together, so that the
heads are mixed in registers, and meets every key once: softmax and sums are kept up as in
FlashAttention (arXiv 2205.14135, Algorithm 1).

What is summed is not P V but (P - c) V with a row's constant c that is near its mean 1 / M, and the
difference is put right at the end. Normalising the map amplifies how it deviates from its mean,
and in half precision, P itself would be rounded by more than it deviates.

They are used on request alone (``MMREST_ATTENTION=triton``): they compile for a GPU and equal the
reference in Triton's interpreter, but have not run on a GPU yet. With ``TRITON_INTERPRET=1`` they
run on a processor, slowly.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmrest.ops.registration import empty_tokens, register_attention

try:
    import triton

    from mmrest.ops.triton import kernels

    # what the kernels were compiled for when they were imported
    _INTERPRETED = triton.knobs.runtime.interpret
except (ImportError, AttributeError):  # none, or an old one
    triton = None

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_HEADS = 8
_MOST_HEAD_DIM = 128
# What all heads' rows of a program may take, and those of a step of its loop, so that they fit
# into a GPU's registers and shared memory; tensor cores need at least so many rows.
_PROGRAM_BYTES = 16384
_STEP_BYTES = 16384
_FEWEST_ROWS = 16
_LARGEST_SHARED_MEMORY = 227 * 1024  # Hopper's
# Programs that keep a large GPU busy; the queries are split until there are as many.
_PROGRAMS = 264


def why_not_triton(q: Tensor, v: Tensor) -> str:
    """Why the kernels cannot take these tensors; empty if they can."""
    if triton is None:
        return 'no Triton, or one without triton.knobs, is installed'
    if not (q.is_cuda or _INTERPRETED):
        return f'the tensors are on {q.device.type}, not on a GPU'
    if _INTERPRETED and q.dtype == torch.bfloat16:
        return "Triton's interpreter does not multiply bfloat16"
    if q.is_cuda and q.dtype == torch.bfloat16 and not _multiplies_bfloat16(q.device):
        return f'{torch.cuda.get_device_name(q.device)} does not multiply bfloat16'
    if q.dtype not in _DTYPES or v.dtype != q.dtype:
        return f'the tensors are {q.dtype} and {v.dtype}, not all float32, float16 or bfloat16'
    if q.shape[1] > _MOST_HEADS or q.shape[3] > _MOST_HEAD_DIM:
        return f'there are more than {_MOST_HEADS} heads or {_MOST_HEAD_DIM} channels a head'
    needed = shared_memory(q)
    if needed > (there := _LARGEST_SHARED_MEMORY if _INTERPRETED else _shared_memory_of(q.device)):
        return f'these heads need {needed} bytes of shared memory, and there are {there}'
    return ''


def _uses_tensor_cores(q: Tensor) -> bool:
    return q.dtype != torch.float32 or torch.get_float32_matmul_precision() != 'highest'


def attend_by_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """See :func:`mmrest.ops.emsa`."""
    return torch.ops.mmrest.attend_by_triton(q, k, v, mix_weight, mix_bias, eps)[0]


def launch_settings(q: Tensor) -> dict[str, Any]:
    """Compile-time constants and warps of the kernels for queries (B, heads, N, head_dim)."""
    heads, width = q.shape[1], q.shape[3]
    row_bytes = _row_bytes(q)
    return dict(
        heads=heads,
        width=width,
        padded=_padded(width),
        block=min(128, max(_FEWEST_ROWS, _PROGRAM_BYTES // row_bytes)),
        step=min(32, max(_FEWEST_ROWS, _STEP_BYTES // row_bytes)),
        precision='tf32' if _uses_tensor_cores(q) else 'ieee',
        num_warps=8,
        num_stages=1 if row_bytes > 1024 else 2,
    )


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    mix_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and of each map the factor r, the rows' log-sum-exp and their sums of D^2."""
    q, k, v = (_with_adjacent_channels(t) for t in (q, k, v))
    batch, heads, queries, head_dim = q.shape
    keys = k.shape[2]
    deviation = empty_tokens(q, dtype=torch.float32)
    log_sum, squares = (deviation.new_empty(batch, heads, queries) for _ in range(2))
    settings = launch_settings(q)
    with _on_device_of(q):
        kernels.forward_kernel[(triton.cdiv(queries, settings['block']), batch)](
            *(q, k, v, q.stride()[:3], k.stride()[:3], v.stride()[:3]),
            *(_scaled_mix(mix_weight, head_dim), v.mean(2, dtype=torch.float32).contiguous()),
            *(deviation, log_sum, squares, queries, keys),
            **settings,
        )
    scale = (squares.sum(2) / (queries * keys) + eps).rsqrt()
    out = empty_tokens(q, dtype=v.dtype)
    torch.mul(deviation, scale[..., None, None], out=out)
    return out, scale, log_sum, squares


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor,
    out: Tensor,
    scale: Tensor,
    log_sum: Tensor,
    squares: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the mix."""
    grad, q, k, v = (_with_adjacent_channels(t) for t in (grad, q, k, v))
    batch, heads, queries, head_dim = q.shape
    keys = k.shape[2]
    # of each row the sum that a softmax's gradient subtracts, by what the output already says
    rows = grad.float()
    product = torch.linalg.vecdot(rows, out.float())
    pull = product.sum(2) * scale / -(queries * keys)
    along_mean = torch.linalg.vecdot(rows, v.mean(2, keepdim=True, dtype=torch.float32))
    delta = product / scale[..., None] + along_mean + pull[..., None] * squares
    mix = _scaled_mix(mix_weight, head_dim)
    common = (
        *(q, k, v, grad, *(t.stride()[:3] for t in (q, k, v, grad))),
        *(mix, (mix * scale[..., None]).contiguous(), log_sum, delta.contiguous(), pull),
    )
    settings = launch_settings(q)
    blocks = triton.cdiv(queries, settings['block'])
    dq = empty_tokens(q)
    pairs = mix.new_empty(blocks, batch, heads, heads)
    with _on_device_of(q):
        kernels.query_gradient_kernel[blocks, batch](*common, dq, pairs, queries, keys, **settings)
    mix_grad = (pairs.sum(0) * scale[..., None]).sum(0) * head_dim**-0.5

    key_blocks = triton.cdiv(keys, settings['block'])
    parts = max(1, min(_PROGRAMS // (key_blocks * batch), queries // settings['step']))
    part_rows = triton.cdiv(triton.cdiv(queries, parts), settings['step']) * settings['step']
    parts = triton.cdiv(queries, part_rows)
    dk, dv = (mix.new_empty(parts, batch, keys, heads, head_dim) for _ in range(2))
    widened = 2.0 ** round(math.log2(keys) / 2)
    with _on_device_of(q):
        kernels.key_gradient_kernel[key_blocks, batch, parts](
            *common, dk, dv, widened, queries, keys, part_rows, **settings
        )
    dk = dk.sum(0).transpose(1, 2)
    dv = dv.sum(0).transpose(1, 2) * (scale / widened)[..., None, None]
    return dq, dk.to(k.dtype), dv.to(v.dtype), mix_grad.to(mix_weight.dtype)


def shared_memory(q: Tensor) -> int:
    """Bytes that a program takes at most; the tests compile the kernels and compare."""
    return max(76_000, 69 * _row_bytes(q))


@cache
def _shared_memory_of(device: torch.device) -> int:
    facts = torch.cuda.get_device_properties(device)
    # AMD's GPUs have one figure only
    return getattr(facts, 'shared_memory_per_block_optin', facts.shared_memory_per_block)


def _multiplies_bfloat16(device: torch.device) -> bool:
    # NVIDIA's from Ampere on
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _on_device_of(x: Tensor) -> AbstractContextManager:
    """Kernels are launched on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _padded(width: int) -> int:
    return max(_FEWEST_ROWS, 1 << (width - 1).bit_length())


def _row_bytes(q: Tensor) -> int:
    return _padded(q.shape[3]) * q.element_size() << (q.shape[1] - 1).bit_length()


def _scaled_mix(mix_weight: Tensor, head_dim: int) -> Tensor:
    return (mix_weight.float() * head_dim**-0.5).contiguous()


def _with_adjacent_channels(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


if triton is not None:
    register_attention('attend_by_triton', _forward, _backward, row_statistics=2)
