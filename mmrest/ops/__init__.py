"""Attention, linear layers and MLPs as functions: one signature, several implementations.

=====================  ============================================================================
file                   what it holds
=====================  ============================================================================
``functional.py``      the functions, with their shapes
``dispatch.py``        which implementation serves a call: the one place that decides
``reference.py``       the papers' equations, literally
``blockwise.py``       exact attention without its map, on any device
``relative.py``        what tables of relative positions add to the logits
``windows.py``         windows of a map
``maps.py``            padding, cropping, pooling and transposing of maps
``tracing.py``         whether torch exports a model
``deformable.py``      attention to a few places of maps
``convolution.py``     convolutions of token maps, for a compiler
``recomputing.py``     what is computed again in the backward pass
``strips.py``          maps that are computed in strips of rows
``autocast.py``        what autocast does to products, for operators that it does not know
``registration.py``    how a function becomes an operator of torch
``cpu/``               what is for processors alone: oneDNN's matmuls, the fused MLP
``triton/``            ResT's attention as kernels for GPUs, on request
=====================  ============================================================================

This package knows torch, Triton if it is there, and the errors of mmrest.
"""

from mmrest.ops.convolution import conv_tokens
from mmrest.ops.deformable import deformable_attention
from mmrest.ops.dispatch import use_implementation
from mmrest.ops.functional import (
    attention,
    attention_with_positions,
    emsa,
    linear,
    mlp,
    normalized_mlp,
    pool_heads,
)
from mmrest.ops.maps import (
    adaptive_average,
    channels_first,
    channels_last,
    crop,
    fill_up,
    max_pool,
    pad_map,
)
from mmrest.ops.relative import joint_logits, position_logits
from mmrest.ops.windows import (
    attend_in_windows,
    cut_windows,
    hide_filling,
    join_windows,
    window_attention,
)

# the name that it had before
attention_way = use_implementation

__all__ = [
    'adaptive_average',
    'attend_in_windows',
    'attention',
    'attention_way',
    'attention_with_positions',
    'channels_first',
    'channels_last',
    'conv_tokens',
    'crop',
    'cut_windows',
    'deformable_attention',
    'emsa',
    'fill_up',
    'hide_filling',
    'join_windows',
    'joint_logits',
    'linear',
    'max_pool',
    'mlp',
    'normalized_mlp',
    'pad_map',
    'pool_heads',
    'position_logits',
    'use_implementation',
    'window_attention',
]
