"""What a config names as ``type='mmrest.X'``, and a script as ``mmrest.x``.

mmengine finds it by importing ``mmrest``; importing also registers it as ``X``.
"""

from mmrest.backbones import (
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
from mmrest.backbones.layers import LayerNorm2d
from mmrest.engine.checkpointing import SafeCheckpointHook
from mmrest.engine.compiling import CompileBackboneHook
from mmrest.engine.fusing import FuseHook
from mmrest.engine.interruption import ResumableEpochLoop, StopHook
from mmrest.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmrest.engine.pictures import DrawPredictionsHook, SaveLabelMapsHook
from mmrest.engine.randomness import SeedIterationsHook
from mmrest.engine.valid_sizes import ValidSizesHook
from mmrest.lookup import config_names, config_path, get_config
from mmrest.multires import MultiResolutionDDP, ScaleConsistencyLoss
from mmrest.multires import make_multi_resolution as MultiResolution
from mmrest.necks import SimpleFPN

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
    'ResumableEpochLoop',
    'SafeCheckpointHook',
    'SaveLabelMapsHook',
    'ScaleConsistencyLoss',
    'SeedIterationsHook',
    'SimpleFPN',
    'StopHook',
    'Swin',
    'TwinsPCPVT',
    'TwinsSVT',
    'ValidSizesHook',
    'config_names',
    'config_path',
    'get_config',
]
