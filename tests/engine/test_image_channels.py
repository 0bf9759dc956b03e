"""Models of images that are not RGB, in whatever makes images up for them."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmseg.models import SegDataPreProcessor
from torch import nn

from mmrest.backbones import PyramidBackbone, ResT
from mmrest.engine.exporting import exported_part
from mmrest.engine.image_channels import image_channels, require_image_channels
from mmrest.errors import InputError
from mmrest.tools.export import compare, export
from tests import forked
from tests.backbones.families import ROWS, build_tiny
from tests.tools.test_main import RUN

CONFIG = """
_base_ = 'mmrest::retinanet_rest_lite_shapes.py'
model = dict(backbone=dict(in_channels=4), data_preprocessor=dict(mean=None, std=None))
"""


@pytest.mark.parametrize('family', list(ROWS))
def test_a_backbone_says_it_wherever_it_is(family: type[PyramidBackbone]) -> None:
    model = nn.Module()
    model.add_module('inner', nn.ModuleDict(dict(backbone=build_tiny(family, in_channels=5))))
    assert image_channels(model) == image_channels(model.inner.backbone) == 5


def test_attributes_of_others_are_not_taken_for_it() -> None:
    backbones = pytest.importorskip('mmdet.models.backbones')
    model = nn.Module()
    model.backbone = backbones.MobileNetV2()
    assert model.backbone.in_channels != 3  # of its last layer
    assert image_channels(model) == 3


@pytest.mark.parametrize(
    ('command', 'arguments'),
    [
        ('info', ['--shape', '64x96', '--measure']),
        ('complexity', ['--shapes', '64x96']),
        ('benchmark', ['--shapes', '64x96', '--steps', '1', '--mode', 'train']),
    ],
)
def test_every_command_makes_up_such_images(
    command: str, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / 'four.py').write_text(CONFIG)
    words = [str(RUN), command, 'four.py', *arguments]
    result = forked.run_script(words, tmp_path, dict(os.environ), 300)
    assert result.returncode == 0, result.stderr
    assert 'takes images of shape' not in result.stdout + result.stderr
    assert result.stdout.count('measured here on one image') == 2 * ('--measure' in arguments)


def test_an_exported_part_takes_such_images(tmp_path: Path) -> None:
    model = nn.Module()
    model.backbone = build_tiny(ResT, in_channels=4)
    part = exported_part(model.eval(), 'backbone')
    path = str(tmp_path / 'part.pt2')
    export(part, path, (64, 96))
    compare(part, path)  # which refuses a file that differs


DETECTION, SEGMENTATION = DetDataPreprocessor, SegDataPreProcessor
THREE, ONE = dict(mean=[1.0] * 3, std=[1.0] * 3), dict(mean=[1.0], std=[1.0])


@pytest.mark.parametrize(
    ('channels', 'kind', 'options', 'fits'),
    [
        (3, DETECTION, dict(THREE, bgr_to_rgb=True), True),
        (3, SEGMENTATION, dict(THREE, rgb_to_bgr=True), True),
        (3, DETECTION, ONE, True),  # one mean is for all channels
        (3, DETECTION, {}, True),
        (4, DETECTION, {}, True),
        (4, DETECTION, ONE, True),
        (4, DETECTION, THREE, False),
        (4, SEGMENTATION, THREE, False),
        (4, DETECTION, dict(bgr_to_rgb=True), False),
        (4, SEGMENTATION, dict(bgr_to_rgb=True), True),  # it swaps where there are three
        (1, DETECTION, ONE, True),
        (1, SEGMENTATION, dict(THREE, bgr_to_rgb=True), False),
        (1, DETECTION, dict(ONE, rgb_to_bgr=True), False),
    ],
)
def test_a_preprocessor_of_other_channels_is_named_where_images_would_fail(
    channels: int, kind: type, options: dict[str, Any], fits: bool
) -> None:
    model = nn.Module()
    model.backbone = build_tiny(ResT, in_channels=channels).eval()
    model.data_preprocessor = kind(**options)
    image = torch.zeros(channels, 32, 32)
    try:  # what the libraries' own do with such images
        model.backbone(model.data_preprocessor(dict(inputs=[image]))['inputs'])
        runs = True
    except (AssertionError, IndexError, RuntimeError, InputError):
        runs = False
    # mmseg's subtracts three means from a channel: three channels, which the backbone refuses
    assert runs == fits
    with nullcontext() if fits else pytest.raises(InputError, match=f'of {channels} channels'):
        require_image_channels(model)
