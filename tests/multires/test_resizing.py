"""Annotations of a resized batch against the same scene drawn at the new size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmrest.multires.resizing import Padding, padding_of, resize_batch

SCALES = [0.75, 0.5, 0.31, 1.5]
# of unit squares: centre and half axes of ellipses, by fraction of width and height
ELLIPSES = np.array([[0.3, 0.4, 0.2, 0.25], [0.72, 0.6, 0.22, 0.3]])


def draw(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) and boxes (N, 4) of the ellipses in an image of a size."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    masks = [
        ((x / width - cx) / a) ** 2 + ((y / height - cy) / b) ** 2 <= 1 for cx, cy, a, b in ELLIPSES
    ]
    boxes = [
        [(cx - a) * width, (cy - b) * height, (cx + a) * width, (cy + b) * height]
        for cx, cy, a, b in ELLIPSES
    ]
    return np.array(masks, dtype=np.uint8), np.array(boxes)


def polygons(size: tuple[int, int]) -> list:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    height, width = size
    return [
        [
            np.stack(
                [(cx + a * np.cos(angles)) * width, (cy + b * np.sin(angles)) * height], 1
            ).ravel()
        ]
        for cx, cy, a, b in ELLIPSES
    ]


def scene(size: tuple[int, int], batch: tuple[int, int], mask_kind: str = 'bitmap') -> tuple:
    """An image, white where something is, and its sample, padded to a batch."""
    masks, boxes = draw(size)
    image = torch.zeros(3, *batch)
    image[:, : size[0], : size[1]] = torch.from_numpy(masks.max(0)).float()
    meta = dict(img_shape=size, pad_shape=batch, batch_input_shape=batch, scale_factor=(2.0, 2.0))
    sample = DetDataSample(metainfo=meta)
    kept = (
        BitmapMasks(masks, *size) if mask_kind == 'bitmap' else PolygonMasks(polygons(size), *size)
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(), labels=torch.tensor([1, 2]), masks=kept.pad(batch)
    )
    sample.ignored_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.from_numpy(boxes[:1]).float()), labels=torch.tensor([0])
    )
    labels = np.full(batch, 255)
    labels[: size[0], : size[1]] = masks[0] + 2 * masks[1] * (1 - masks[0])
    sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(labels)[None])
    return image, sample


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return np.logical_and(a, b).sum() / np.logical_or(a, b).sum()


@pytest.mark.parametrize('mask_kind', ['bitmap', 'polygon'])
@pytest.mark.parametrize('scale', SCALES)
def test_annotations_are_those_of_the_scene_at_the_new_size(scale: float, mask_kind: str) -> None:
    sizes, batch = [(97, 141), (120, 100)], (128, 160)
    images, samples = zip(*(scene(size, batch, mask_kind) for size in sizes), strict=True)
    inputs, resized = resize_batch(torch.stack(images), samples, scale, Padding(32))
    assert inputs.shape[-2] % 32 == 0
    assert inputs.shape[-1] % 32 == 0
    for (height, width), image, sample in zip(sizes, inputs, resized, strict=True):
        size = round(height * scale), round(width * scale)
        padded = tuple(image.shape[-2:])
        assert sample.img_shape == size
        assert sample.pad_shape == sample.batch_input_shape == padded
        factors = 2 * size[1] / width, 2 * size[0] / height
        assert sample.scale_factor == pytest.approx(factors)
        masks, boxes = draw(size)
        instances = sample.gt_instances
        torch.testing.assert_close(instances.bboxes, torch.from_numpy(boxes).float())
        assert isinstance(sample.ignored_instances.bboxes, HorizontalBoxes)
        torch.testing.assert_close(
            sample.ignored_instances.bboxes.tensor, torch.from_numpy(boxes[:1]).float()
        )
        assert instances.labels.tolist() == [1, 2]
        assert (instances.masks.height, instances.masks.width) == padded
        pixels = instances.masks.to_ndarray()
        inside = np.zeros(padded, dtype=bool)
        inside[: size[0], : size[1]] = True
        assert not pixels[:, ~inside].any()
        labels = sample.gt_sem_seg.sem_seg[0].numpy()
        assert (labels[~inside] == 255).all()
        assert not (labels[inside] == 255).any()
        for index, mask in enumerate(masks):
            kept = pixels[index][: size[0], : size[1]]
            assert overlap(kept, mask) > 0.93
            # neither is moved by half a pixel
            assert np.abs(np.argwhere(kept).mean(0) - np.argwhere(mask).mean(0)).max() < 0.25
        seen = image[0, : size[0], : size[1]].numpy() > 0.5
        drawn = labels[: size[0], : size[1]] > 0
        assert overlap(seen, drawn) > 0.93
        assert overlap(seen, masks.max(0)) > 0.95
        assert (image[:, ~torch.from_numpy(inside)] == 0).all()


def test_ignored_pixels_stay_ignored_and_labels_are_never_mixed() -> None:
    labels = torch.randint(0, 150, (1, 60, 80))
    labels[:, 10:20, 30:50] = 255
    meta = dict(img_shape=(60, 80), pad_shape=(64, 96), padding_size=(0, 16, 0, 4))
    sample = SegDataSample(metainfo=meta)
    padded = torch.full((1, 64, 96), 255)
    padded[:, :60, :80] = labels
    sample.gt_sem_seg = PixelData(data=padded)
    inputs, (resized,) = resize_batch(torch.rand(1, 3, 64, 96), [sample], 0.5)
    assert tuple(inputs.shape) == (1, 3, 30, 40)
    small = resized.gt_sem_seg.data
    assert small.dtype == torch.long
    assert (small[:, 5:10, 15:25] == 255).all()
    assert (small == 255).sum() == 50
    torch.testing.assert_close(small, labels[:, 1::2, 1::2])
    assert resized.padding_size == (0, 0, 0, 0)
    assert tuple(sample.gt_sem_seg.data.shape) == (1, 64, 96)
    assert sample.img_shape == (60, 80)


@pytest.mark.parametrize('masks', [BitmapMasks([], 40, 40), PolygonMasks([], 40, 40)])
def test_images_without_instances(masks: Any) -> None:
    sample = DetDataSample(metainfo=dict(img_shape=(40, 40), batch_input_shape=(40, 40)))
    sample.gt_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), masks=masks
    )
    inputs, (resized,) = resize_batch(torch.rand(1, 3, 40, 40), [sample], 0.5)
    assert tuple(inputs.shape) == (1, 3, 20, 20)
    assert len(resized.gt_instances) == 0
    assert resized.gt_instances.bboxes.shape == (0, 4)
    assert (resized.gt_instances.masks.height, resized.gt_instances.masks.width) == (20, 20)


def test_nothing_vanishes() -> None:
    image, sample = scene((9, 7), (9, 7))
    inputs, (resized,) = resize_batch(image[None], [sample], 0.05)
    assert tuple(inputs.shape) == (1, 3, 1, 1)
    assert resized.img_shape == (1, 1)
    widths = resized.gt_instances.bboxes[:, 2:] - resized.gt_instances.bboxes[:, :2]
    assert widths.min() > 0


def test_the_full_scale_is_the_batch_itself() -> None:
    image, sample = scene((20, 30), (32, 32))
    inputs, samples = resize_batch(image[None], [sample], 1.0, Padding(32))
    assert inputs.data_ptr() == image.data_ptr()
    assert samples[0] is not sample
    assert torch.equal(samples[0].gt_instances.bboxes, sample.gt_instances.bboxes)
    # what a head writes into its samples reaches no other scale
    for name in ('bboxes', 'labels'):
        before = sample.gt_instances[name].clone()
        samples[0].gt_instances[name].zero_()
        assert torch.equal(sample.gt_instances[name], before)
    del samples[0].gt_instances.masks
    assert 'masks' in sample.gt_instances


def test_padding_is_the_preprocessors() -> None:
    detector = DetDataPreprocessor(pad_size_divisor=16, pad_value=114, seg_pad_value=254)
    assert padding_of(detector) == (16, 114, 254)
    assert padding_of(detector, 32) == (32, 114, 254)
    segmentor = SegDataPreProcessor(size=(64, 64), pad_val=7, seg_pad_val=0)
    assert padding_of(segmentor) == (1, 7, 0)
    image, sample = scene((20, 30), (20, 30))
    inputs, (resized,) = resize_batch(image[None], [sample], 0.5, Padding(16, 7, 9))
    assert (inputs[..., 10:, :] == 7).all()
    assert (resized.gt_sem_seg.sem_seg[..., 15:] == 9).all()


def test_what_cannot_be_resized_is_named() -> None:
    image, sample = scene((20, 30), (20, 30))
    sample.gt_instances.keypoint_maps = torch.zeros(2, 20, 30)
    with pytest.raises(ValueError, match='keypoint_maps'):
        resize_batch(image[None], [sample], 0.5)


def sample_of(size: tuple[int, int], **meta: Any) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size, **meta))
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    return sample


def test_images_are_averaged_when_they_shrink() -> None:
    """Stripes of one pixel become grey; without antialiasing single stripes would be picked."""
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::4] = 1
    images, _ = resize_batch(stripes, [sample_of((64, 64))], 0.25)
    assert images.shape == (1, 3, 16, 16)
    torch.testing.assert_close(images.mean(), torch.tensor(0.25), rtol=0.02, atol=0)
    assert images[..., 1:-1].std() < 0.01


def test_a_sample_without_a_scale_factor_gets_that_of_the_resize() -> None:
    _, (sample,) = resize_batch(torch.zeros(1, 3, 64, 32), [sample_of((64, 32))], 0.5)
    assert sample.scale_factor == (0.5, 0.5)


def test_samples_must_be_those_of_the_images() -> None:
    with pytest.raises(ValueError, match='shorter'):
        resize_batch(torch.zeros(2, 3, 64, 32), [sample_of((64, 32))], 0.5)


def test_what_a_label_map_says_of_itself_is_kept() -> None:
    labels = PixelData(metainfo=dict(source='a.png'), data=torch.zeros(1, 64, 32).long())
    sample = SegDataSample(metainfo=dict(img_shape=(64, 32)), gt_sem_seg=labels)
    _, (resized,) = resize_batch(torch.zeros(1, 3, 64, 32), [sample], 0.5)
    assert resized.gt_sem_seg.source == 'a.png'


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        ({}, Padding(1, 0, 255)),
        (dict(size_divisor=8, pad_val=3.0, seg_pad_val=0), Padding(8, 3.0, 0)),
        (dict(pad_size_divisor=16, pad_value=4.0, seg_pad_value=7), Padding(16, 4.0, 7)),
    ],
)
def test_padding_has_the_names_of_both_libraries(names: dict[str, Any], expected: Padding) -> None:
    preprocessor = torch.nn.Module()
    for name, value in names.items():
        setattr(preprocessor, name, value)
    assert padding_of(preprocessor) == expected
    assert padding_of(preprocessor, 32).divisor == 32
