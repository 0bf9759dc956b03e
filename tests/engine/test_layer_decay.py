from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from torch import nn

from mmrest.backbones import PyramidBackbone
from mmrest.errors import InputError
from tests.backbones.families import ROWS, build


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def optimizer_of(model: nn.Module, rate: Any, **paramwise: Any) -> torch.optim.Optimizer:
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5),
        paramwise_cfg=dict(layer_decay_rate=rate, **paramwise),
    )
    return build_optim_wrapper(model, cfg).optimizer


# Worked out by hand for a decay of 0.5: four stages or four blocks behind the stem, and before what
# follows them.
RATES = {
    'ResT': [
        ('head.', 0.1),
        ('backbone.stages.0.embed.', 0.03125),
        ('backbone.stages.0.', 0.0625),
        ('backbone.stages.1.', 0.125),
        ('backbone.stages.2.', 0.25),
        ('backbone.stages.3.', 0.5),
        ('backbone.branch_norms.', 1.0),
    ],
    'ResFormer': [
        ('head.', 0.1),
        ('backbone.embed.', 0.03125),
        ('backbone.blocks.0.', 0.0625),
        ('backbone.blocks.1.', 0.125),
        ('backbone.blocks.2.', 0.25),
        ('backbone.blocks.3.', 0.5),
        ('backbone.', 1.0),
    ],
}
# staged families are alike
RATES = {family.__name__: RATES['ResT'] for family in ROWS} | RATES
RATES['GPViT'] = RATES['GPViTAdapter'] = RATES['ResFormer']


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('family', ROWS, ids=lambda family: family.__name__)
def test_every_layer_gets_its_rate(family: type[PyramidBackbone], scope: str) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        init_default_scope(scope)
        model = Detector(build(family, frozen_stages=1))
        optimizer = optimizer_of(
            model, 0.5, norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=0.1)}
        )
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(groups) == len(trainable)
    for name, parameter in trainable.items():
        expected = next(rate for start, rate in RATES[family.__name__] if name.startswith(start))
        assert groups[id(parameter)]['lr'] == pytest.approx(expected), name
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and module.weight.requires_grad:
            assert groups[id(module.weight)]['weight_decay'] == 0, name
        if isinstance(module, nn.Linear) and module.weight.requires_grad:
            assert groups[id(module.weight)]['weight_decay'] == 0.5, name
    # one group for each combination, not one for each parameter
    assert len(optimizer.param_groups) < 25


@pytest.mark.parametrize('rate', [None, 0, 1.5])
def test_a_bad_rate_is_named(rate: Any) -> None:
    with pytest.raises(InputError, match='0 < r <= 1'):
        optimizer_of(Detector(build(next(iter(ROWS)))), rate)


def test_a_rate_of_one_decays_nothing() -> None:
    model = Detector(build(next(iter(ROWS))))
    assert {group['lr'] for group in optimizer_of(model, 1.0).param_groups} == {1.0}


def test_offsets_of_deformable_convolutions_keep_their_own_rate() -> None:
    """mmengine tells its own recursion what kind of module it is in."""
    from mmcv.ops import ModulatedDeformConv2dPack

    model = Detector(build(next(iter(ROWS))))
    model.neck = ModulatedDeformConv2dPack(2, 2, 3)
    optimizer = optimizer_of(model, 0.5, dcn_offset_lr_mult=0.25)
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert rates[id(model.neck.weight)] == 1.0
    assert rates[id(model.neck.conv_offset.weight)] == 0.25


def test_a_model_without_a_backbone_is_named() -> None:
    with pytest.raises(InputError, match=r'the backbone of Linear .*which NoneType does not have'):
        optimizer_of(nn.Linear(2, 2), 0.5)


def test_a_backbone_without_depths_is_named() -> None:
    with pytest.raises(InputError, match='which Linear does not have'):
        optimizer_of(Detector(nn.Linear(2, 2)), 0.5)


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_the_log_tells_the_rates_that_are_used(tmp_path: Path) -> None:
    logger = MMLogger.get_instance(str(tmp_path), log_level='INFO')  # one that no test has
    handler = Lines()
    logger.addHandler(handler)
    model = Detector(build(next(iter(ROWS))))
    optimizer = optimizer_of(model, 0.5, norm_decay_mult=0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    expected = {
        f'paramwise_options -- {names[id(p)]}:{option}={group[option]}'
        for group in optimizer.param_groups
        for p in group['params']
        for option in ('lr', 'weight_decay')
    }
    told = [line for line in handler.lines if ':lr=' in line or ':weight_decay=' in line]
    assert len(told) == len(set(told))
    assert set(told) <= expected
    rates = {line for line in expected if ':lr=' in line}
    assert rates <= set(told)
    assert len({line.rpartition('=')[2] for line in rates}) > 3
