"""Matmuls on a processor, by the faster of torch's two libraries, without gradients.

torch multiplies float32 matrices by MKL, and computes convolutions by oneDNN. Which is faster
depends on the processor. MKL does not use AVX-512 on AMD's, which is half the speed of those whose
units are as wide (Zen 5 on); oneDNN does. On others both reach the units' speed: oneDNN is faster
with many rows, MKL in attention as a whole, in blocks and chunks unless oneDNN alone has AVX-512,
and where both matrices are transposed.

``docs/scripts/ablation.py --constants`` tries other sizes than those below.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping

import torch
from torch import Tensor

from mmrest.ops.cpu.processor import processor_facts

HAS_ONEDNN = (
    platform.machine() in ('x86_64', 'AMD64')
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, '_linear_pointwise')
)


_ZEN_5 = 26


def is_mkl_fast(processor: Mapping[str, str]) -> bool:
    """Whether MKL is as fast as the units of a processor, of which Linux tells these facts."""
    vendor = processor.get('vendor_id')
    narrow_amd = vendor == 'AuthenticAMD' and int(processor.get('cpu family', _ZEN_5)) < _ZEN_5
    return vendor == 'GenuineIntel' or narrow_amd


def is_mkl_faster_in_blocks(processor: Mapping[str, str]) -> bool:
    """Whether MKL is the faster for the products of attention in blocks and of MLPs in chunks.

    It is on Intel's, and on AMD's where oneDNN has no AVX-512 either.
    """
    vendor = processor.get('vendor_id')
    has_avx512 = 'avx512f' in processor.get('flags', '').split()
    return vendor == 'GenuineIntel' or (vendor == 'AuthenticAMD' and not has_avx512)


FAST_MKL = is_mkl_fast(processor_facts())
_MKL_IN_BLOCKS = is_mkl_faster_in_blocks(processor_facts())
# Above, a weight's gradient is faster as a product than as a convolution's.
_LARGE_WEIGHT = 2**20


def has_onednn_for(x: Tensor) -> bool:
    """True if oneDNN can multiply ``x`` and is wanted: float32 on a processor, no autocast."""
    return (
        HAS_ONEDNN
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled('cpu')
    )


def is_fused_faster(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """True if torch's fused attention, which multiplies by MKL, serves and beats the products."""
    return (
        FAST_MKL
        and q.device.type == 'cpu'
        and q.dtype == torch.float32
        and q.shape[3] == v.shape[3]
        and q.stride(3) == k.stride(3) == v.stride(3) == 1
        and torch.backends.cuda.flash_sdp_enabled()  # of processors, too
    )


def even_step(length: int, about: int) -> int:
    """Rows a step, within about half of ``about``, so that the last step is not much shorter."""
    steps = max(1, round(length / about))
    return math.ceil(length / steps / 16) * 16  # products are fastest where rows come in sixteens


def multiply_by_onednn(
    a: Tensor, b: Tensor, bias: Tensor | None = None, gelu: bool = False
) -> Tensor:
    """``a @ b^T + bias`` of (n, c), (m, c) and (m,), of any strides; then perhaps a GELU."""
    # what torch.compile makes of a linear layer
    activation = ('gelu', [], 'none') if gelu else ('none', [], '')
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, *activation)


def multiply_matrices(a: Tensor, b: Tensor, memory: Tensor | None = None) -> Tensor:
    """``a @ b`` of (n, c) and (c, m), by the faster library in blocks; without gradients.

    Args:
        a: Of any strides; oneDNN is fastest where it is contiguous.
        b: Of any strides.
        memory: (n, m), of any strides, which shall hold the result.

    Returns:
        (n, m), ``memory`` if it is given.
    """
    if _blocks_by_onednn(a):
        product = multiply_by_onednn(a, b.t())
        return product if memory is None else memory.copy_(product)
    return torch.mm(a, b, out=a.new_empty(len(a), b.shape[1]) if memory is None else memory)


def linear_in_blocks(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gelu: bool = False,
    memory: Tensor | None = None,
) -> Tensor:
    """A linear layer, then perhaps a GELU, by the faster library in blocks; without gradients.

    oneDNN has a GELU of its own, which is slower than torch's without AVX-512.

    Args:
        rows: (n, c).
        weight: (m, c).
        bias: (m,).
        gelu: Whether there is one.
        memory: (n, m), contiguous, which shall hold the result.

    Returns:
        (n, m), ``memory`` if it is given.
    """
    if _blocks_by_onednn(rows):
        out = multiply_by_onednn(rows, weight, bias, gelu)
        return out if memory is None else memory.copy_(out)
    out = rows.new_empty(len(rows), len(weight)) if memory is None else memory
    if bias is None:
        torch.mm(rows, weight.t(), out=out)
    else:
        torch.addmm(bias, rows, weight.t(), out=out)
    return torch.ops.aten.gelu_(out) if gelu else out


def add_matrix_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``, as :func:`multiply_matrices`."""
    if _blocks_by_onednn(a):
        total.add_(multiply_by_onednn(a, b.t()))
    else:
        total.addmm_(a, b)


def add_weight_gradient(total: Tensor, grad: Tensor, x: Tensor) -> None:
    """``total += grad^T @ x`` of (m, c), (n, m) and (n, c), with many rows."""
    if FAST_MKL:
        total.addmm_(grad.t(), x)
        return
    if total.numel() > _LARGE_WEIGHT:
        total += multiply_by_onednn(grad.t(), x.t())
        return
    # a convolution's weight gradient; much slower where the rows do not come in eights
    even = len(x) // 8 * 8
    if even:
        total += torch.ops.aten.convolution_backward(
            *(_as_map(grad[:even]), _as_map(x[:even]), total[:, :, None, None]),
            *(None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]),
        )[1][:, :, 0, 0]
    if even < len(x):
        total.addmm_(grad[even:].t(), x[even:])


def _as_map(rows: Tensor) -> Tensor:
    """(n, c) -> (1, c, n, 1), a view in channels-last layout."""
    return rows[None, :, None].permute(0, 3, 1, 2)


def multiply(rows: Tensor, matrices: Tensor, memory: Tensor | None = None) -> Tensor:
    """``row @ matrix^T`` for every row and head; without gradients.

    Args:
        rows: (B, heads, n, c).
        matrices: (B, heads, m, c).
        memory: (B, heads, n, m), of the dtype that the result shall have; may be written to.

    Returns:
        (B, heads, n, m), ``memory`` or another tensor.
    """
    by_onednn = _blocks_by_onednn(rows)
    if by_onednn and rows.shape[0] == rows.shape[1] == 1:  # the product need not be copied
        return multiply_by_onednn(rows[0, 0], matrices[0, 0])[None, None]
    if memory is None:
        memory = rows.new_empty(*rows.shape[:3], matrices.shape[2])
    if not by_onednn and memory.dtype == rows.dtype and memory.is_contiguous():
        torch.bmm(rows.flatten(0, 1), matrices.flatten(0, 1).mT, out=memory.flatten(0, 1))
        return memory
    if rows.device.type != 'cpu':  # each launch costs more than the product's memory
        return memory.copy_(rows @ matrices.mT)
    for target, left, right in zip(memory, rows, matrices, strict=True):
        if by_onednn:
            for head, matrix in enumerate(right):
                target[head] = multiply_by_onednn(left[head], matrix)
        else:
            target.copy_(left @ right.mT)
    return memory


def as_columns(matrices: Tensor) -> Tensor:
    """(..., m, c) -> (..., c, m), laid out as products in blocks are fastest with it."""
    if _blocks_by_onednn(matrices):
        return matrices.mT.contiguous()
    return matrices.contiguous().mT


def mix_heads(weights: Tensor, maps: Tensor, memory: Tensor) -> Tensor:
    """Each head's map becomes a sum of all heads'; without gradients.

    Args:
        weights: (B, heads, heads).
        maps: (B, heads, n, m), contiguous.
        memory: As ``maps``; is written to.

    Returns:
        ``memory``.
    """
    torch.bmm(weights, maps.flatten(2), out=memory.flatten(2))
    return memory


def add_products(total: Tensor, maps: Tensor, rows: Tensor, is_first: bool) -> None:
    """``total += map^T @ rows`` for every head of every image; without gradients.

    Args:
        total: (B, heads, m, c).
        maps: (B, heads, n, m), contiguous.
        rows: (B, heads, n, c).
        is_first: Whatever ``total`` holds is not part of the sum.
    """
    by_onednn = _blocks_by_onednn(maps)
    if not by_onednn and total.dtype == maps.dtype and total.is_contiguous():
        beta = 0 if is_first else 1
        total.flatten(0, 1).baddbmm_(maps.flatten(0, 1).mT, rows.flatten(0, 1), beta=beta)
        return
    if maps.device.type != 'cpu':
        product = maps.mT @ rows
        total.copy_(product) if is_first else total.add_(product)
        return
    for targets, image_maps, image_rows in zip(total, maps, rows, strict=True):
        if by_onednn:
            columns = image_rows.mT.contiguous()
            pairs = zip(columns, image_maps, strict=True)
            products = [multiply_by_onednn(left, right.t()).t() for left, right in pairs]
        else:
            products = image_maps.mT @ image_rows
        for target, product in zip(targets, products, strict=True):
            target.copy_(product) if is_first else target.add_(product)


def _blocks_by_onednn(x: Tensor) -> bool:
    return has_onednn_for(x) and not _MKL_IN_BLOCKS
