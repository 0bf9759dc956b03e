"""Backbones for MMDetection 3.x and MMSegmentation 1.x that take images of any size."""

from mmrest.stack import check_stack
from mmrest.version import __version__

check_stack()

# What a config names as type='mmrest.X', which mmengine finds by importing this module; importing
# also registers it as X. The check of the stack comes first.
from mmrest.backbones import (  # noqa: E402
    P2T,
    PVT,
    PVTV2,
    CSWin,
    GPViT,
    GPViTAdapter,
    MViTV2,
    ResFormer,
    ResT,
    ResTV2,
    Swin,
    TwinsPCPVT,
    TwinsSVT,
)
from mmrest.backbones.layers import LayerNorm2d  # noqa: E402
from mmrest.engine.compiling import CompileBackboneHook  # noqa: E402
from mmrest.engine.fusing import FuseHook  # noqa: E402
from mmrest.engine.layer_decay import LayerDecayOptimWrapperConstructor  # noqa: E402
from mmrest.engine.pictures import DrawPredictionsHook, SaveLabelMapsHook  # noqa: E402
from mmrest.engine.valid_sizes import ValidSizesHook  # noqa: E402
from mmrest.multires import MultiResolutionDDP, ScaleConsistencyLoss  # noqa: E402
from mmrest.multires import make_multi_resolution as MultiResolution  # noqa: E402
from mmrest.necks import SimpleFPN  # noqa: E402

__all__ = [
    'P2T',
    'PVT',
    'PVTV2',
    'CSWin',
    'CompileBackboneHook',
    'DrawPredictionsHook',
    'FuseHook',
    'GPViT',
    'GPViTAdapter',
    'LayerDecayOptimWrapperConstructor',
    'LayerNorm2d',
    'MViTV2',
    'MultiResolution',
    'MultiResolutionDDP',
    'ResFormer',
    'ResT',
    'ResTV2',
    'SaveLabelMapsHook',
    'ScaleConsistencyLoss',
    'SimpleFPN',
    'Swin',
    'TwinsPCPVT',
    'TwinsSVT',
    'ValidSizesHook',
    '__version__',
]
