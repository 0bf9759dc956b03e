"""Test-time augmentation for Mask R-CNN and Cascade Mask R-CNN.

mmdet merges the boxes of an image's views and refuses masks. Here they are merged as in detectron2
(``GeneralizedRCNNWithTTA``): the boxes of all views by non-maximum suppression, then the mask head
looks at the merged boxes in every view, and the mean of its probabilities is the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi, bbox_flip
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrest.errors import InputError


@MODELS.register_module()
class MaskTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` with masks.

    Args:
        tta_cfg: As of ``DetTTAModel``.
        module: A two-stage detector; its ``StandardRoIHead`` or ``CascadeRoIHead`` has masks.

    Raises:
        InputError: The detector is of another kind.
    """

    def __init__(self, tta_cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(tta_cfg=tta_cfg, **kwargs)
        head = getattr(self.module, 'roi_head', None)
        if not getattr(head, 'with_mask', False) or not hasattr(head, '_mask_forward'):
            raise InputError(
                f'MaskTTAModel merges masks of RoI heads, not those of {type(self.module).__name__}'
            )

    @torch.no_grad()
    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict each image from all of its views.

        Args:
            data: ``inputs`` and ``data_samples``, each a list of views of lists of images.

        Returns:
            A sample an image, its boxes and masks in the image's own pixels.
        """
        views = [
            self.module.data_preprocessor(
                {key: value[i] for key, value in data.items()}, training=False
            )
            for i in range(len(data['inputs']))
        ]
        features = [self.module.extract_feat(view['inputs']) for view in views]
        boxes = [self._predict_boxes(*pair) for pair in zip(features, views, strict=True)]
        merged = self.merge_preds([list(of_image) for of_image in zip(*boxes, strict=True)])
        for i, sample in enumerate(merged):
            samples = [view['data_samples'][i] for view in views]
            maps = [tuple(level[i : i + 1] for level in levels) for levels in features]
            self._add_masks(sample, samples, maps)
        return merged

    def _predict_boxes(
        self, features: tuple[Tensor, ...], view: dict[str, Any]
    ) -> list[DetDataSample]:
        """Boxes of the images in one view, without masks."""
        samples = view['data_samples']
        proposals = self.module.rpn_head.predict(features, samples, rescale=False)
        head = self.module.roi_head
        results = head.predict_bbox(
            features,
            [sample.metainfo for sample in samples],
            proposals,
            head.test_cfg,
            rescale=True,
        )
        return self.module.add_pred_to_datasample([sample.new() for sample in samples], results)

    def _add_masks(
        self,
        merged: DetDataSample,
        samples: list[DetDataSample],
        maps: list[tuple[Tensor, ...]],
    ) -> None:
        """Add masks to the merged boxes of an image.

        Args:
            merged: Of the image; changed in place.
            samples: Of the image's views.
            maps: Feature maps (1, C, h, w) of its views.
        """
        head = self.module.roi_head
        mask_head = _last(head.mask_head)
        boxes = merged.pred_instances.bboxes
        probs = [
            self._mask_probabilities(boxes, sample.metainfo, levels)
            for sample, levels in zip(samples, maps, strict=True)
        ]
        (merged.pred_instances,) = mask_head.predict_by_feat(
            mask_preds=(torch.stack(probs).mean(0),),
            results_list=[merged.pred_instances],
            # the boxes are in the image's own pixels already
            batch_img_metas=[{**merged.metainfo, 'scale_factor': (1.0, 1.0)}],
            rcnn_test_cfg=head.test_cfg,
            rescale=True,
            activate_map=True,
        )

    def _mask_probabilities(
        self, boxes: Tensor, meta: dict[str, Any], levels: tuple[Tensor, ...]
    ) -> Tensor:
        """What the mask head sees in boxes (n, 4) of the image, in one view: (n, classes, h, w)."""
        head = self.module.roi_head
        in_view = boxes * boxes.new_tensor(meta['scale_factor']).repeat(2)
        direction = meta['flip_direction'] if meta.get('flip') else None
        if direction:
            in_view = bbox_flip(in_view, meta['img_shape'], direction)
        rois = bbox2roi([in_view])
        if len(rois) == 0:
            return boxes.new_zeros(0, _last(head.mask_head).num_classes, 1, 1)
        if isinstance(head.mask_head, nn.ModuleList):  # every stage of a cascade has one
            stages = range(len(head.mask_head))
            logits = [head._mask_forward(i, levels, rois)['mask_preds'] for i in stages]
        else:
            logits = [head._mask_forward(levels, rois)['mask_preds']]
        probs = torch.stack([stage.sigmoid() for stage in logits]).mean(0)
        flipped = {None: (), 'horizontal': (3,), 'vertical': (2,), 'diagonal': (2, 3)}[direction]
        return probs.flip(flipped) if flipped else probs


def _last(heads: nn.Module) -> nn.Module:
    return heads[-1] if isinstance(heads, nn.ModuleList) else heads
