"""What convolutions become once a model is used for inference alone; see :mod:`mmrest.inference`.

Their parameters have ``fused`` in their names, so that a fused model's state never passes for that
of the model that it was made from.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrest.backbones.layers import can_fuse
from mmrest.errors import InputError


class FoldsNorms:
    """A module whose ``forward`` calls each of some norms on what a convolution returns, unchanged.

    Attributes:
        folds: Names of a convolution, of the norm right behind it, and of the ReLU right behind
            that, if there is one. No name stands twice.
    """

    folds: ClassVar[tuple[tuple[str, ...], ...]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = [name for fold in getattr(cls, 'folds', ()) for name in fold]
        if len(set(names)) < len(names):
            raise TypeError(f'{cls.__name__}.folds names a module twice: {names}')


def can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """True if the norm is a BatchNorm with statistics that a plain convolution can take over."""
    plain = can_fuse(conv, norm) and isinstance(norm, _BatchNorm) and isinstance(conv, nn.Conv2d)
    return plain and norm.track_running_stats and norm.affine and conv.padding_mode == 'zeros'


class FoldedConv2d(nn.Module):
    """A convolution and the BatchNorm behind it, as one convolution, for inference alone.

    Args:
        conv: A plain convolution.
        norm: See :func:`can_fold`.
        relu: Whether a ReLU follows, which then needs no memory of its own.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, relu: bool = False) -> None:
        super().__init__()
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if conv.bias is not None:
            bias = bias + conv.bias * scale
        weight = conv.weight * scale[:, None, None, None]
        self.fused_weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.fused_bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.relu = relu
        self.options = dict(
            stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, h, w).

        Raises:
            InputError: The model is in training.
        """
        if self.training:
            raise InputError(
                'the model is fused for inference (mmrest.inference.fuse) and cannot be trained; '
                'train the model that it was made from'
            )
        x = F.conv2d(x, self.fused_weight, self.fused_bias, **self.options)
        return x.relu_() if self.relu else x

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {f'{prefix}{name}' for name in self.state_dict()}
        if not own & state.keys():
            raise InputError(
                f'the model is fused for inference (mmrest.inference.fuse), and the checkpoint is '
                f'not: it has no {min(own)}. Load it first, then fuse.'
            )
        super()._load_from_state_dict(state, prefix, *args)
