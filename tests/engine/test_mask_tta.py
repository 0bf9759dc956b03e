"""Masks over test-time augmentations: what one view says, and what a mirror does not change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmrest.engine.mask_tta import MaskTTAModel
from mmrest.errors import InputError
from tests.checkpoints.test_whole_models import TINY
from tests.conftest import ROOT

SIZE = (64, 96)


def mask_rcnn(cascade: bool) -> ConfigDict:
    cfg = Config.fromfile(ROOT / 'configs/mask_rcnn_rest_lite_shapes.py')
    model = cfg.model
    model.backbone.arch = TINY
    model.neck.in_channels = [8, 16, 24, 32]
    # a new model is sure of nothing
    model.test_cfg.rcnn.update(
        score_thr=0.0, max_per_img=8, nms=dict(type='nms', iou_threshold=0.5)
    )
    if cascade:
        head = model.roi_head
        head.type = 'CascadeRoIHead'
        head.update(num_stages=2, stage_loss_weights=[1, 0.5])
        head.bbox_head.reg_class_agnostic = True
        head.bbox_head = [copy.deepcopy(head.bbox_head) for _ in range(2)]
        head.mask_head = [copy.deepcopy(head.mask_head) for _ in range(2)]
        model.train_cfg.rcnn = [model.train_cfg.rcnn] * 2
    return model


@pytest.fixture(params=[False, True], ids=['Mask R-CNN', 'Cascade Mask R-CNN'])
def tta(request: pytest.FixtureRequest) -> MaskTTAModel:
    cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=8)
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(mask_rcnn(request.param)).eval()
    for name, parameter in detector.named_parameters():  # so that classes and masks differ
        if name.startswith('roi_head.'):
            torch.nn.init.normal_(parameter, std=1.0 if 'conv_logits.w' in name else 0.05)
        if 'conv_logits.b' in name:
            torch.nn.init.zeros_(parameter)
    return MaskTTAModel(tta_cfg=ConfigDict(cfg), module=detector)


def view(
    image: Tensor, scale: float = 1.0, flip: str | None = None
) -> tuple[Tensor, DetDataSample]:
    """A view of an image (3, H, W) as a test pipeline makes it."""
    size = tuple(round(side * scale) for side in SIZE)
    resized = torch.nn.functional.interpolate(image[None], size, mode='bilinear')[0]
    axes = {None: [], 'horizontal': [2], 'vertical': [1], 'diagonal': [1, 2]}[flip]
    meta = dict(
        img_shape=size,
        ori_shape=SIZE,
        scale_factor=(size[1] / SIZE[1], size[0] / SIZE[0]),
        flip=flip is not None,
        flip_direction=flip,
    )
    return resized.flip(axes) if axes else resized, DetDataSample(metainfo=meta)


def predict(model: MaskTTAModel, *views: tuple[Tensor, DetDataSample]) -> Any:
    data = dict(
        inputs=[[image] for image, _ in views], data_samples=[[sample] for _, sample in views]
    )
    (merged,) = model.test_step(data)
    return merged.pred_instances


def difference(masks: Tensor, others: Tensor) -> float:
    """Mean difference of probabilities where there is one."""
    masks, others = masks.float(), others.float()
    return float((masks - others).abs().sum() / torch.maximum(masks, others).sum())


def soft(model: MaskTTAModel) -> MaskTTAModel:
    """The same model, whose masks are probabilities from 0 to 255."""
    model.module.roi_head.test_cfg.mask_thr_binary = -1
    return model


def image() -> Tensor:
    return torch.rand(3, *SIZE) * 255


def test_one_view_is_the_detectors_own_prediction(tta: MaskTTAModel) -> None:
    shown, tta = image(), soft(tta)
    pixels, sample = view(shown, scale=1.5)
    with torch.no_grad():
        (alone,) = tta.module.test_step(dict(inputs=[pixels], data_samples=[sample]))
    alone = alone.pred_instances
    merged = predict(tta, view(shown, scale=1.5))
    assert len(alone) == len(merged) > 0
    torch.testing.assert_close(merged.bboxes, alone.bboxes, rtol=1e-4, atol=1e-3)
    assert torch.equal(merged.labels, alone.labels)
    assert merged.masks.shape == (len(merged), *SIZE)
    assert alone.masks.any()
    assert difference(merged.masks, alone.masks) < 0.01


@pytest.mark.parametrize('flip', ['horizontal', 'vertical', 'diagonal'])
def test_a_mirrored_view_comes_back(flip: str, tta: MaskTTAModel) -> None:
    """What is seen in a mirror alone is the mirror of what is seen of the mirrored image."""
    shown, tta = image(), soft(tta)
    axes = {'horizontal': [2], 'vertical': [1], 'diagonal': [1, 2]}[flip]
    through_mirror = predict(tta, view(shown, flip=flip))
    of_mirrored = predict(tta, view(shown.flip(axes)))
    assert torch.equal(through_mirror.labels, of_mirrored.labels)
    same = difference(through_mirror.masks.flip(axes), of_mirrored.masks)
    other = difference(through_mirror.masks, of_mirrored.masks)
    assert same < 0.05
    assert other > 4 * same


def test_the_mean_of_probabilities_is_the_mask(
    tta: MaskTTAModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [view(image()), view(image(), flip='horizontal')]
    single = [0.2, 0.9]
    given = iter(single)
    shape = (5, 28, 28)

    def constant(boxes: Tensor, *_: Any) -> Tensor:
        return boxes.new_full((len(boxes), *shape), next(given))

    monkeypatch.setattr(tta, '_mask_probabilities', constant)
    found = predict(tta, *views)
    # (0.2 + 0.9) / 2 is above the threshold of 0.5: masks fill their boxes
    areas = (found.bboxes[:, 2:] - found.bboxes[:, :2]).clamp(min=0).prod(1)
    filled = found.masks.flatten(1).sum(1)
    large = areas > 100
    assert large.any()
    torch.testing.assert_close(filled[large].float(), areas[large], rtol=0.25, atol=0)


def test_no_detection_is_no_mask(tta: MaskTTAModel) -> None:
    tta.module.roi_head.test_cfg.score_thr = 2.0
    found = predict(tta, view(image()), view(image(), flip='horizontal'))
    assert len(found) == 0
    assert found.masks.shape == (0, *SIZE)


def test_other_detectors_are_refused() -> None:
    cfg = Config.fromfile(ROOT / 'configs/retinanet_rest_lite_shapes.py')
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(InputError, match='not those of RetinaNet'),
    ):
        MaskTTAModel(module=cfg.model)
