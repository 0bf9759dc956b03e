"""SimpleFPN."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmseg.registry import MODELS as MMSEG_MODELS

from mmrest import ResFormer, SimpleFPN
from tests.backbones.families import PLAIN


@pytest.mark.parametrize('size', [(1, 1), (70, 90)], ids=str)
def test_takes_resformers_pyramid_and_adds_levels(size: tuple[int, int]) -> None:
    backbone = ResFormer(PLAIN)
    neck = SimpleFPN(backbone.out_channels, 24, num_outs=5)
    neck.init_weights()
    maps = backbone(torch.randn(2, 3, *size))
    outs = neck(maps)
    assert len(outs) == 5
    for out, level in zip(outs, maps, strict=False):
        assert out.shape == (2, 24, *level.shape[-2:])
    torch.testing.assert_close(outs[4], outs[3][:, :, ::2, ::2])
    sum(out.square().sum() for out in outs).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_is_a_convolution_and_a_layer_norm_twice() -> None:
    neck = SimpleFPN([8], 16, num_outs=1)
    x = torch.randn(1, 8, 5, 6)
    first, second = neck.levels[0]
    expected = x
    for layer in (first, second):
        assert layer.conv.bias is None
        expected = layer.conv(expected)
        mean = expected.mean(1, keepdim=True)
        deviation = expected.var(1, unbiased=False, keepdim=True).add(1e-6).sqrt()
        expected = (expected - mean) / deviation
    torch.testing.assert_close(neck([x])[0], expected)


def test_registered_in_every_scope_and_takes_other_norms() -> None:
    cfg = dict(
        type='SimpleFPN', in_channels=[8, 8], out_channels=8, num_outs=3, norm_cfg=dict(type='BN')
    )
    for registry in (MMDET_MODELS, MMSEG_MODELS):
        neck = registry.build(cfg)
        assert type(neck) is SimpleFPN
        assert isinstance(neck.levels[0][0].norm, torch.nn.BatchNorm2d)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match='num_outs=1 is less than the 2 levels'):
        SimpleFPN([8, 8], 8, num_outs=1)
    with pytest.raises(ValueError, match='must be the channels of each level'):
        SimpleFPN([], 8, num_outs=1)
    with pytest.raises(ValueError, match='takes 1 maps, got 2'):
        SimpleFPN([8], 8, num_outs=1)([torch.zeros(1, 8, 2, 2)] * 2)
