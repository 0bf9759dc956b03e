"""Twins: Revisiting the Design of Spatial Attention in Vision Transformers.

Chu et al., NeurIPS 2021, arXiv 2104.13840; the authors' code is Meituan-AutoML/Twins (Apache-2.0).
Written anew from the paper. The authors' three copies of the model (for ImageNet, detection and
segmentation) differ where a map is no multiple of the patches or windows; arguments choose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmrest.backbones.arch import require_switches
from mmrest.backbones.hierarchical import Stage
from mmrest.backbones.layers import (
    TokenConv,
    initialize_by_fan_out,
    layer_norm_block,
)
from mmrest.backbones.pyramid import register_backbone
from mmrest.backbones.spatial_reduction import (
    PatchConv,
    PatchedBackbone,
    PatchEmbed,
    SpatialReductionArch,
    SpatialReductionAttention,
)
from mmrest.backbones.window_attention import WindowAttention
from mmrest.checkpoints import (
    MMCV_ATTENTION,
    Fresh,
    KeyMap,
    key_value_rows,
    query_rows,
)
from mmrest.errors import InputError
from mmrest.ops import hide_filling

WINDOWS = ('ragged', 'padded', 'masked')


class PositionEncodingGenerator(nn.Module):
    """Positions from a token's neighbourhood: x + depthwise3x3(x) ("PEG", arXiv 2102.10882).

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = TokenConv(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        return x + self.proj(x)


class LocallyGroupedAttention(WindowAttention):
    """Attention in windows that are not shifted ("LSA", Section 3.2).

    Args:
        channels: Channels of the map.
        num_heads: Attention heads.
        window_size: Side of a window in tokens.
        windows: See :class:`TwinsSVT`.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, windows: str) -> None:
        super().__init__(channels, num_heads, window_size)
        self.windows = windows

    def make_bias(self, batch: int, grid: torch.Size, q: Tensor) -> Tensor | None:
        """See :class:`WindowAttention`."""
        if self.windows == 'padded':
            return None
        whole = [side % self.window_size == 0 for side in grid]
        # the mask of the authors' segmentation code is lost where rows or columns are not filled
        if self.windows == 'masked' and any(whole):
            return None
        # a graph in which nothing is filled would hold for whole windows alone
        if not torch.compiler.is_compiling() and all(whole):
            return None
        return hide_filling(batch, grid, (self.window_size, self.window_size), q)


@dataclass(frozen=True)
class TwinsPCPVTArch(SpatialReductionArch):
    """Of Twins-PCPVT (Table 1 of the paper's appendix)."""


@dataclass(frozen=True)
class TwinsSVTArch(SpatialReductionArch):
    """Of Twins-SVT.

    Attributes:
        window_size: Side of the windows in tokens, of all stages.
    """

    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    window_size: int = 7


def _with_positions(match: re.Match) -> str:
    """A block's own place: behind the first block are the positions."""
    block = int(match[2])
    return f'stages.{match[1]}.blocks.{block + (block > 0)}.'


RULES = (
    # mmseg's names are the second ones
    (r'patch_embeds\.(\d+)\.(?:proj|projection)\.', r'stages.\1.embed.proj.'),
    (r'patch_embeds\.(\d+)\.norm\.', r'stages.\1.embed.norm.'),
    (r'pos_block\.(\d+)\.proj\.0\.', r'stages.\1.blocks.1.proj.'),
    (r'position_encodings\.(\d+)\.proj\.', r'stages.\1.blocks.1.proj.'),
    (r'(?:blocks|layers)\.(\d+)\.(\d+)\.', _with_positions),
    (r'norm_list\.(\d+)\.', r'stages.\1.norm.'),
    *MMCV_ATTENTION,
    (r'(.+)\.ffn\.layers\.0\.0\.', r'\1.mlp.fc1.'),
    (r'(.+)\.ffn\.layers\.1\.', r'\1.mlp.fc2.'),
    (r'(.+\.attn)\.norm\.', r'\1.sr_norm.'),
)
# the norm in front of the classifier is not used in dense prediction
DROP = (r'head\.', r'norm\.')
ADAPT = {r'.+\.attn\.q\.': query_rows, r'.+\.attn\.kv\.': key_value_rows}


@register_backbone
class TwinsPCPVT(PatchedBackbone):
    """The backbone of Twins-PCPVT: ``'small'``, ``'base'`` and ``'large'``.

    PVT with positions from a convolution (Section 3.1). Arguments are those of
    :class:`PatchedBackbone`.
    """

    Arch = TwinsPCPVTArch
    variants = {
        'small': TwinsPCPVTArch((64, 128, 320, 512), (3, 4, 6, 3)),
        'base': TwinsPCPVTArch((64, 128, 320, 512), (3, 4, 18, 3)),
        'large': TwinsPCPVTArch((64, 128, 320, 512), (3, 8, 27, 3)),
    }
    norm_eps = 1e-6
    initialize = staticmethod(initialize_by_fan_out)
    keys = KeyMap(
        rules=RULES,
        drop=DROP,
        adapt=ADAPT,
        fresh=(Fresh(r'branch_norms\.', unless=r'branch_norms\.'),),
        signature=(
            r'(pos_block|position_encodings)\.0\.|stages\.0\.blocks\.1\.proj\.',
            r'((blocks|layers)\.0\.0|stages\.0\.blocks\.0)\.attn\.(q\.|attn\.)',
        ),
    )

    def make_stage(
        self, index: int, in_channels: int, arch: SpatialReductionArch, drop_path_rates: list[float]
    ) -> Stage:
        """See :meth:`HierarchicalBackbone.make_stage`."""
        channels = arch.embed_dims[index]
        patches = PatchConv(in_channels, channels, 2 if index else 4, self.sizes)
        blocks: list[nn.Module] = [
            layer_norm_block(
                channels,
                self.make_attention(index, i, arch),
                arch.mlp_ratios[index],
                rate,
                self.norm_eps,
            )
            for i, rate in enumerate(drop_path_rates)
        ]
        blocks.insert(1, PositionEncodingGenerator(channels))
        return Stage(PatchEmbed(patches), blocks, self.make_stage_norm(channels))

    def make_attention(self, stage: int, block: int, arch: SpatialReductionArch) -> nn.Module:
        """Attention to the reduced map ("GSA")."""
        channels = arch.embed_dims[stage]
        reduction = self.make_reduction(channels, arch.sr_ratios[stage])
        return SpatialReductionAttention(channels, arch.num_heads[stage], reduction, norm_eps=1e-5)

    def make_stage_norm(self, channels: int) -> nn.Module | None:
        """What is behind the blocks of a stage."""
        return None


@register_backbone
class TwinsSVT(TwinsPCPVT):
    """The backbone of Twins-SVT: ``'small'``, ``'base'`` and ``'large'``.

    Attention in windows and to a reduced map, block by block (Section 3.2).

    Args:
        arch: A published name, or a :class:`TwinsSVTArch` or a dict of its fields.
        windows: What is done where windows do not divide a map: ``'ragged'``, those at the right
            and the bottom are smaller; ``'padded'``, zeros fill them and take part, as in the
            authors' detection code; ``'masked'``, as in their segmentation code, which is
            ``'ragged'`` where rows and columns are filled and ``'padded'`` where only one is.
        stage_norm: A LayerNorm behind each stage, as in the authors' dense code; the ImageNet model
            has none.
        sizes: See :class:`PatchedBackbone`, as all that follow.
        in_channels: Channels of the images.
        out_indices: Stages whose maps are returned.
        out_norm: ``'none'`` or ``'branch'``.
        frozen_stages: How many stages are frozen.
        norm_eval: Of no effect, there are no BatchNorms.
        drop_path_rate: Drop-path probability of the last block.
        with_cp: Recompute blocks in the backward pass.
        init_cfg: Takes the authors' files and mmseg's.
    """

    Arch = TwinsSVTArch
    variants = {
        'small': TwinsSVTArch((64, 128, 256, 512), (2, 2, 10, 4)),
        'base': TwinsSVTArch((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
        'large': TwinsSVTArch((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
    }
    keys = KeyMap(
        rules=RULES,
        drop=DROP,
        adapt=ADAPT,
        fresh=(
            Fresh(r'branch_norms\.', unless=r'branch_norms\.'),
            Fresh(r'stages\.\d+\.norm\.', unless=r'norm_list\.|stages\.\d+\.norm\.'),
        ),
        signature=(
            r'(pos_block|position_encodings)\.0\.|stages\.0\.blocks\.1\.proj\.',
            r'((blocks|layers)\.0\.0|stages\.0\.blocks\.0)\.attn\.qkv\.',
        ),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] | TwinsSVTArch | None = None,
        windows: str = 'ragged',
        stage_norm: bool = True,
        sizes: str = 'ceil',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: str | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if windows not in WINDOWS:
            raise InputError(f'TwinsSVT: windows={windows!r} must be one of {", ".join(WINDOWS)}')
        # make_stage reads them
        self.windows = windows
        require_switches('TwinsSVT', stage_norm=stage_norm)
        self.stage_norm = stage_norm
        super().__init__(
            arch=arch,
            sizes=sizes,
            in_channels=in_channels,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            drop_path_rate=drop_path_rate,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    def make_attention(self, stage: int, block: int, arch: TwinsSVTArch) -> nn.Module:
        """In windows and to the reduced map, in turn."""
        if block % 2:
            return super().make_attention(stage, block, arch)
        return LocallyGroupedAttention(
            arch.embed_dims[stage], arch.num_heads[stage], arch.window_size, self.windows
        )

    def make_stage_norm(self, channels: int) -> nn.Module | None:
        """See :class:`TwinsPCPVT`."""
        return nn.LayerNorm(channels, self.norm_eps) if self.stage_norm else None
