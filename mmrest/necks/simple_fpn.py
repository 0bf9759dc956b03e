"""The convolutions of ViTDet's simple feature pyramid.

Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022, arXiv
2203.16527, Section 3. The maps of different strides are made by the backbone
(``ResFormer(pyramid='simple')``); what is left to the neck has no top-down path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrest.errors import InputError


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """For each level a 1x1 and a 3x3 convolution, each with a norm; further levels by pooling.

    Args:
        in_channels: Channels of each level.
        out_channels: Channels of every output.
        num_outs: Number of outputs. Each one beyond the inputs takes every second row and column
            of the one before, as mmdet's ``FPN``.
        norm_cfg: Norm of the convolutions; by default ViTDet's LayerNorm over channels.
        init_cfg: As mmengine's ``BaseModule``.

    Raises:
        InputError: No levels, or fewer outputs than levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='Xavier', layer='Conv2d', distribution='uniform'))
        if not isinstance(in_channels, Sequence) or not in_channels:
            raise InputError(
                f'SimpleFPN: in_channels={in_channels!r} must be the channels of each level'
            )
        if type(num_outs) is not int or num_outs < len(in_channels):
            raise InputError(
                f'SimpleFPN: num_outs={num_outs} is less than the {len(in_channels)} levels of '
                f'in_channels={list(in_channels)}'
            )
        self.in_channels = tuple(in_channels)
        self.num_outs = num_outs
        options = dict(norm_cfg=norm_cfg or dict(type='mmrest.LayerNorm2d', eps=1e-6), act_cfg=None)
        self.levels = nn.ModuleList(
            nn.Sequential(
                ConvModule(channels, out_channels, 1, **options),
                ConvModule(out_channels, out_channels, 3, padding=1, **options),
            )
            for channels in self.in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(B, in_channels[i], H_i, W_i) a level -> (B, out_channels, H_i, W_i) a level, and more.

        Raises:
            InputError: Another number of maps than ``in_channels`` has.
        """
        if len(maps) != len(self.levels):
            raise InputError(f'SimpleFPN takes {len(self.levels)} maps, got {len(maps)}')
        outs = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
