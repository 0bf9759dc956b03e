"""The authors' own ResT from a clone of their repository, so that it can be timed beside ours.

    git clone https://github.com/wofmanaf/ResT
    export REST_CODE=$PWD/ResT PYTHONPATH=docs/scripts
    python tools/benchmark.py ResT:arch=small --against authors_code.rest:arch=small

It is their detection backbone, ``d2/rest.py``, as it is. It needs detectron2 and timm for a few
names only; they are given here, so that neither has to be installed.
"""

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from mmrest.errors import InputError

VARIABLE = 'REST_CODE'
_STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
# first stage's channels, third stage's blocks, drop path
_VARIANTS = {
    'lite': (64, 2, 0.1),
    'small': (64, 6, 0.1),
    'base': (96, 6, 0.2),
    'large': (96, 18, 0.2),
}


class Levels(nn.Module):
    """Their backbone, with a list for their dictionary of maps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> list[Tensor]:
        """Every level, finest first."""
        return list(self.backbone(images).values())


def rest(arch: str = 'small') -> nn.Module:
    """The authors' backbone with all levels and nothing frozen, as their detectors build it.

    Args:
        arch: ``'lite'``, ``'small'``, ``'base'`` or ``'large'``.

    Raises:
        InputError: ``REST_CODE`` does not name their repository.
    """
    file = Path(os.environ.get(VARIABLE, '')) / 'd2/rest.py'
    if VARIABLE not in os.environ or not file.is_file():
        raise InputError(
            f'{VARIABLE} must name a clone of https://github.com/wofmanaf/ResT: no {file} there'
        )
    channels, blocks, drop_path_rate = _VARIANTS[arch]
    sys.modules.update(_stand_ins())
    theirs = runpy.run_path(str(file))['ResT']
    return Levels(
        theirs(
            SimpleNamespace(MODEL=SimpleNamespace(BACKBONE=SimpleNamespace(FREEZE_AT=-1))),
            embed_dims=[channels * 2**stage for stage in range(4)],
            depths=(2, 2, blocks, 2),
            drop_path_rate=drop_path_rate,
            out_features=_STAGES,
        )
    )


def _stand_ins() -> dict[str, ModuleType]:
    """Modules with the names that the file imports."""
    registry = SimpleNamespace(register=lambda: lambda function: function)
    names = {
        'timm.models.layers': {
            'DropPath': DropPath,
            'to_2tuple': lambda value: (value, value),
            'trunc_normal_': trunc_normal_,
        },
        'detectron2.modeling.backbone': {'Backbone': nn.Module},
        'detectron2.modeling.backbone.build': {'BACKBONE_REGISTRY': registry},
        'detectron2.modeling.backbone.fpn': dict.fromkeys(
            ('FPN', 'LastLevelP6P7', 'LastLevelMaxPool')
        ),
        'detectron2.layers': {'ShapeSpec': None},
    }
    parents = {name.rpartition('.')[0] for name in names} | {'timm', 'detectron2'}
    modules = {name: ModuleType(name) for name in parents | set(names)}
    for name, members in names.items():
        vars(modules[name]).update(members)
    return modules
