from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrest import ResT
from mmrest.engine.unread_levels import require_all_levels_read
from mmrest.errors import InputError
from tests.backbones.families import build_tiny
from tests.checkpoints.test_whole_models import TINY
from tests.conftest import ROOT


def build(name: str, **backbone: object) -> nn.Module:
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    cfg.model.backbone.update(arch=TINY, **backbone)
    if name.startswith('upernet'):
        cfg.model.decode_head.in_channels = [8, 16, 24, 32]
        cfg.model.auxiliary_head.in_channels = 24
    else:
        channels = TINY['embed_dims']
        cfg.model.neck.in_channels = [channels[i] for i in cfg.model.backbone.out_indices]
        cfg.model.neck.start_level = backbone.pop('start_level', 0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


def four_levels(start_level: int, **backbone: object) -> nn.Module:
    cfg = Config.fromfile(ROOT / 'configs/retinanet_rest_lite_shapes.py')
    cfg.model.backbone.update(arch=TINY, out_indices=(0, 1, 2, 3), **backbone)
    cfg.model.neck.update(in_channels=[8, 16, 24, 32], start_level=start_level)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('start_level', [1, 2])
def test_the_level_is_named(start_level: int) -> None:
    model = four_levels(start_level)
    modes = [module.training for module in model.modules()]
    levels = ', '.join(str(i) for i in range(start_level))
    kept = tuple(range(start_level, 4))
    with pytest.raises(InputError) as error:
        require_all_levels_read(model)
    assert f'nobody reads level {levels} of ResT' in str(error.value)
    assert 'branch_norms.0.weight' in str(error.value)
    assert f'out_indices={kept}' in str(error.value)
    assert f'in_channels={[TINY["embed_dims"][i] for i in kept]}' in str(error.value)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_has_no_parameters_of_its_own_may_be_unread() -> None:
    require_all_levels_read(four_levels(1, out_norm='none'))


@pytest.mark.parametrize('name', ['retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'])
def test_shipped_models_read_all(name: str) -> None:
    require_all_levels_read(build(name))


def test_a_segmentors_heads_choose() -> None:
    model = build('upernet_rest_lite_shapes')
    require_all_levels_read(model)
    model.decode_head.in_index = [1, 2, 3]
    with pytest.raises(InputError, match='nobody reads level 0'):
        require_all_levels_read(model)


def test_other_models_pass() -> None:
    require_all_levels_read(nn.Linear(1, 1))
    require_all_levels_read(dict(type='RetinaNet'))


def test_a_model_that_needs_more_than_an_image_passes() -> None:
    class NeedsText(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build_tiny(ResT)

        def extract_feat(self, images: torch.Tensor, text: str) -> None: ...

    model = NeedsText()
    require_all_levels_read(model)
    assert all(module.training for module in model.modules())
