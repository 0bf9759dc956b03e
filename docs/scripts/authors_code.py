"""The authors' own models from clones of their repositories, so that they can be timed beside ours.

    mkdir code; cd code
    git clone https://github.com/wofmanaf/ResT
    git clone https://github.com/microsoft/CSWin-Transformer
    git clone https://github.com/yuhuan-wu/P2T
    git clone https://github.com/ChenhongyiYang/GPViT
    cd ..
    pip install einops
    export AUTHORS_CODE=$PWD/code PYTHONPATH=docs/scripts
    python tools/benchmark.py ResT:arch=small --against authors_code.rest:arch=small

Their files run as they are. They need detectron2, timm and versions of mmcv, mmcls and mmseg that
are gone for a few names only; these are given here, so that nothing of it has to be installed.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import mmcv.utils
from mmcv.cnn.bricks import DropPath
from mmengine.config import ConfigDict
from mmengine.model import BaseModule, ModuleList, Sequential
from mmengine.registry import Registry, build_from_cfg
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.init import trunc_normal_

from mmrest.errors import InputError

VARIABLE = 'AUTHORS_CODE'
_REST_STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
# first stage's channels, third stage's blocks, drop path
_REST = {
    'lite': (64, 2, 0.1),
    'small': (64, 6, 0.1),
    'base': (96, 6, 0.2),
    'large': (96, 18, 0.2),
}
# from segmentation/configs/cswin
_CSWIN: dict[str, dict[str, Any]] = {
    'tiny': dict(embed_dim=64, depth=[1, 2, 21, 1], num_heads=[2, 4, 8, 16], drop_path_rate=0.3),
    'small': dict(embed_dim=64, depth=[2, 4, 32, 2], num_heads=[2, 4, 8, 16], drop_path_rate=0.4),
    'base': dict(embed_dim=96, depth=[2, 4, 32, 2], num_heads=[4, 8, 16, 32], drop_path_rate=0.6),
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
    """ResT's ``d2/rest.py`` with all levels and nothing frozen, as their detectors build it.

    Args:
        arch: ``'lite'``, ``'small'``, ``'base'`` or ``'large'``.

    Raises:
        InputError: ``AUTHORS_CODE`` does not name a folder with their repository; of all here.
    """
    channels, blocks, drop_path_rate = _REST[arch]
    theirs = _module('ResT', 'd2/rest.py').ResT
    return Levels(
        theirs(
            SimpleNamespace(MODEL=SimpleNamespace(BACKBONE=SimpleNamespace(FREEZE_AT=-1))),
            embed_dims=[channels * 2**stage for stage in range(4)],
            depths=(2, 2, blocks, 2),
            drop_path_rate=drop_path_rate,
            out_features=_REST_STAGES,
        )
    )


def cswin(arch: str = 'tiny') -> nn.Module:
    """CSWin's backbone of segmentation: ``'tiny'``, ``'small'`` or ``'base'``."""
    file = 'segmentation/backbone/cswin_transformer.py'
    return _module('CSWin-Transformer', file).CSWin(split_size=[1, 2, 7, 7], **_CSWIN[arch])


def p2t(arch: str = 'small') -> nn.Module:
    """P2T's backbone of detection: ``'tiny'``, ``'small'``, ``'base'`` or ``'large'``."""
    return getattr(_module('P2T', 'detection/p2t.py'), f'p2t_{arch}')()


def gpvit(arch: str = 'L1') -> nn.Module:
    """GPViT with the outputs of its segmentation code: ``'L1'``, ``'L2'``, ``'L3'`` or ``'L4'``."""
    theirs = _module('GPViT', 'mmcls/gpvit_dev/models/backbones/gpvit.py').GPViT
    return theirs(arch, out_indices=[2, 5, 8, 11], drop_path_rate=-1)


def _module(repository: str, file: str) -> ModuleType:
    """The module of a file, imported with the names that it expects to find elsewhere."""
    path = Path(os.environ.get(VARIABLE, '')) / repository / file
    if VARIABLE not in os.environ or not path.is_file():
        raise InputError(
            f'{VARIABLE} must name a folder with a clone of {repository}: no {path} there; '
            f'{__file__} says from where'
        )
    # their own package, without what its __init__ files import
    packages = {'theirs': [], 'theirs.backbone': [], **_packages_of_gpvit(path)}
    with patch.dict(sys.modules, _stand_ins(packages)):
        spec = importlib.util.spec_from_file_location('theirs.backbone.model', path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def _packages_of_gpvit(path: Path) -> dict[str, list[str]]:
    models = path.parents[1]
    return {
        'mmcls': [],
        'mmcls.gpvit_dev': [],
        'mmcls.gpvit_dev.models': [str(models)],
        **{f'mmcls.gpvit_dev.models.{name}': [str(models / name)] for name in ('modules', 'utils')},
    }


def _stand_ins(packages: dict[str, list[str]]) -> dict[str, ModuleType]:
    """Modules with the names that the files import, and packages with the folders to look in."""
    anything = SimpleNamespace(
        register=lambda: lambda function: function, register_module=lambda: lambda kind: kind
    )
    runner = {'BaseModule': BaseModule, 'ModuleList': ModuleList, 'Sequential': Sequential}
    names: dict[str, dict[str, Any]] = {
        'timm.data': dict.fromkeys(('IMAGENET_DEFAULT_MEAN', 'IMAGENET_DEFAULT_STD')),
        'timm.models.helpers': {'load_pretrained': None},
        'timm.models.layers': {
            'DropPath': DropPath,
            'to_2tuple': _pair,
            'trunc_normal_': trunc_normal_,
        },
        'timm.models.resnet': dict.fromkeys(('resnet26d', 'resnet50d')),
        'timm.models.registry': {'register_model': None},
        'timm.models.vision_transformer': {'_cfg': None},
        'detectron2.modeling.backbone': {'Backbone': nn.Module},
        'detectron2.modeling.backbone.build': {'BACKBONE_REGISTRY': anything},
        'detectron2.modeling.backbone.fpn': dict.fromkeys(
            ('FPN', 'LastLevelP6P7', 'LastLevelMaxPool')
        ),
        'detectron2.layers': {'ShapeSpec': None},
        'mmcv_custom': {'load_checkpoint': None},
        'mmcv.cnn.utils.weight_init': {'trunc_normal_': trunc_normal_},
        'mmcv.runner': {'load_checkpoint': None},
        'mmcv.runner.base_module': runner,
        'mmcv.utils': {
            **vars(mmcv.utils),
            'Registry': Registry,
            'build_from_cfg': build_from_cfg,
            'ConfigDict': ConfigDict,
            'deprecated_api_warning': None,
            'to_2tuple': _pair,
        },
        'mmdet.models.builder': {'BACKBONES': anything},
        'mmdet.utils': {'get_root_logger': None},
        'mmseg.utils': {'get_root_logger': None},
        'mmcls.utils': {'get_root_logger': None},
        'mmcls.models.builder': {'BACKBONES': anything},
        'mmcls.models.utils': {'resize_pos_embed': _resize_positions, 'to_2tuple': _pair},
        'mmcls.models.backbones.base_backbone': {'BaseBackbone': BaseModule},
        'theirs.builder': {'BACKBONES': anything},
    }
    parents = {
        name.rsplit('.', depth)[0] for name in names for depth in range(1, name.count('.') + 1)
    }
    missing = {name for name in parents | set(packages) if name not in sys.modules}
    modules = {name: ModuleType(name) for name in missing | set(names)}
    for name, members in names.items():
        vars(modules[name]).update(members)
    for name, folders in packages.items():
        modules[name].__path__ = folders
    return modules


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


def _resize_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str, num_extra_tokens: int
) -> Tensor:
    """As mmcls did it, for a table without extra tokens."""
    grid = table.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=new, mode=mode, align_corners=False)
    return grid.flatten(2).transpose(1, 2)
