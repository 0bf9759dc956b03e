"""A neck or head that takes other maps than the backbone gives is named, with what both say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmrest import ResT
from mmrest.engine.map_channels import explain_map_channels, find_difference
from mmrest.errors import InputError
from tests.backbones.families import build_tiny
from tests.shipped import shipped


class Model(nn.Module):
    """A backbone of maps of 8 and 16 channels, and what reads them."""

    def __init__(self, name: str, **reader: Any) -> None:
        super().__init__()
        self.name = name
        self.backbone = build_tiny(ResT)
        setattr(self, name, MODELS.build(reader))

    def forward(self, images: Tensor) -> Any:
        return getattr(self, self.name)(self.backbone(images))


def neck(in_channels: list[int], **options: Any) -> Model:
    fpn = dict(type='mmdet.FPN', out_channels=8, num_outs=3, in_channels=in_channels)
    return Model('neck', **fpn, **options)


def decode_head(in_channels: list[int] | int, in_index: list[int] | int) -> Model:
    one = isinstance(in_index, int)
    return Model(
        'decode_head',
        type='mmseg.FCNHead',
        num_convs=1,
        channels=8,
        num_classes=2,
        norm_cfg=None,
        in_channels=in_channels,
        in_index=in_index,
        **({} if one else dict(input_transform='resize_concat')),
    )


def run(model: nn.Module) -> None:
    with explain_map_channels(model):
        model.eval()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize('in_channels', [[8, 24], [8, 16, 32], [16, 8]], ids=str)
def test_a_neck_for_other_maps_is_named(in_channels: list[int]) -> None:
    said = r'model\.neck \(FPN\) takes .*ResT, out_indices=\(0, 1\).* model\.neck\.in_channels='
    with pytest.raises(InputError, match=said + r'\[8, 16\]'):
        run(neck(in_channels))


def test_a_head_for_other_maps_is_named() -> None:
    run(decode_head(16, 1))
    with pytest.raises(InputError, match=r'decode_head \(FCNHead\) takes .*in_channels=16'):
        run(decode_head(8, 1))
    run(decode_head([16, 8], [1, 0]))
    with pytest.raises(InputError, match=r'decode_head \(FCNHead\) .*in_channels=\[16, 8\]'):
        run(decode_head([8, 8], [1, 0]))


def test_what_a_neck_does_not_use_may_be_anything() -> None:
    model = Model(
        'neck',
        type='mmdet.FPN',
        out_channels=8,
        num_outs=1,
        start_level=1,
        in_channels=[99, 16],
    )
    run(model)
    assert find_difference(model) is None


@pytest.mark.parametrize('error', [RuntimeError('out of memory'), AssertionError()])
def test_other_errors_stay_as_they_are(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    model = neck([8, 24])

    def fail(images: Tensor) -> None:
        raise error

    monkeypatch.setattr(model.backbone, 'forward', fail)
    with pytest.raises(type(error)) as raised:
        run(model)
    assert raised.value is error


def test_a_model_without_a_backbone_of_the_package_has_no_difference() -> None:
    assert find_difference(nn.Linear(2, 2)) is None
    model = neck([8, 16])
    model.backbone = nn.Conv2d(3, 8, 1)
    assert find_difference(model) is None


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'bbox_head.in_channels': 128}, r'bbox_head \(RetinaHead\) takes in_channels=128, .* 256'),
        (
            {'bbox_head.anchor_generator.strides': [8, 16, 32]},
            r'bbox_head \(RetinaHead\) are for 3 maps, .*gives 5: set model.neck.num_outs=3',
        ),
    ],
)
def test_a_detectors_head_that_does_not_fit_the_neck_is_named(changes: dict, said: str) -> None:
    cfg = shipped('retinanet_rest_small_coco')
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.model.backbone.update(arch='lite', init_cfg=None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert re.search(said, find_difference(model))
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4, 30, 30]]), labels=torch.tensor([1])
    )
    with pytest.raises(InputError, match=said), explain_map_channels(model):
        model.loss(torch.randn(1, 3, 64, 64), [sample])
