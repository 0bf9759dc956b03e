from __future__ import annotations

import re
from typing import Any

import pytest
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrest.engine.anchor_strides import find_misplaced_anchors
from tests.shipped import on_meta, shipped


def detector(name: str = 'retinanet_rest_small_coco', **changes: Any) -> nn.Module:
    cfg = shipped(name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with on_meta(), DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


# the strides of RetinaNet's anchors in mmdet are 8, 16, 32, 64, 128
@pytest.mark.parametrize(
    ('changes', 'given'),
    [
        ({'neck.start_level': 1}, r'\(FPN, start_level=1\) gives maps at 16, 32, 64, 128, 256'),
        (
            {'backbone.out_indices': (0, 1, 2, 3), 'neck.in_channels': [64, 128, 256, 512]},
            r'\(FPN, start_level=0\) gives maps at 4, 8, 16, 32, 64',
        ),
        (
            {'bbox_head.anchor_generator.strides': [4, 8, 16, 32, 64]},
            'of model.bbox_head are for maps at strides 4, 8, 16, 32, 64, .* at 8, 16, 32, 64, 128',
        ),
    ],
)
def test_a_retinanet_with_anchors_elsewhere_is_told(changes: dict, given: str) -> None:
    assert re.search(given, find_misplaced_anchors(detector(**changes)))


def test_a_level_that_is_not_read_is_none() -> None:
    changes = {'backbone.out_indices': (0, 1, 2, 3), 'neck.in_channels': [64, 128, 256, 512]}
    assert find_misplaced_anchors(detector(**changes, **{'neck.start_level': 1})) is None


def test_a_region_proposal_network_is_looked_at() -> None:
    changed = detector('mask_rcnn_rest_small_coco', **{'neck.start_level': 1})
    assert 'the anchors of model.rpn_head are for' in find_misplaced_anchors(changed)


def test_what_is_not_known_is_not_judged() -> None:
    assert find_misplaced_anchors(nn.Linear(2, 2)) is None
    model = detector()
    model.neck = nn.Identity()  # a neck of somebody's own
    assert find_misplaced_anchors(model) is None
    model = detector(**{'neck.start_level': 1})
    model.backbone = nn.Identity()
    assert find_misplaced_anchors(model) is None
