"""Attention, MLP and products.

This package knows torch, Triton if it is there, and the errors of mmrest.
"""

from mmrest.ops.attention import attention, emsa
from mmrest.ops.convolution import conv_tokens, strided_conv
from mmrest.ops.mlp import MLPWeights, add_branch, add_norm_mlp
from mmrest.ops.products import linear
from mmrest.ops.strips import Convolution, convolve_in_strips
from mmrest.ops.ways import attention_way
from mmrest.ops.windows import attend_in_windows

__all__ = [
    'Convolution',
    'MLPWeights',
    'add_branch',
    'add_norm_mlp',
    'attend_in_windows',
    'attention',
    'attention_way',
    'conv_tokens',
    'convolve_in_strips',
    'emsa',
    'linear',
    'strided_conv',
]
