"""Cascade R-CNN as detectron2 builds it: one mask head, and gradients averaged over the box heads.

mmdet's own has a mask head for each stage. The module derives from mmdet's class, so that a config
names it (``type='mmrest.engine.one_mask_head.OneMaskCascadeRoIHead'``) and no module imports it.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.task_modules import SamplingResult
from mmdet.models.utils import empty_instances
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.autograd import Function


class _ScaleGradient(Function):
    """A tensor as it is, whose gradient is scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


@MODELS.register_module()
class OneMaskCascadeRoIHead(CascadeRoIHead):
    """Box heads in stages, and one mask head, which learns from the first stage's proposals.

    In prediction its masks are those of the last stage's boxes, as with a head for each stage.
    The box heads' losses are summed, and maps learn from their mean, as in detectron2
    (``CascadeROIHeads``): with ``stage_loss_weights`` of 1 the heads have the gradients of mmdet's,
    and neck and backbone a third of them. Annotated boxes that were sampled with the proposals are
    refined with them; a ``PseudoSampler`` in ``train_cfg`` of the later stages takes all of those.

    Arguments are those of mmdet's ``CascadeRoIHead``; ``mask_head`` and ``mask_roi_extractor`` are
    one config each.
    """

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Build the one head."""
        super().init_mask_head(mask_roi_extractor, mask_head)
        self.mask_head = nn.ModuleList(self.mask_head[:1])

    def mask_loss(self, stage: int, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The loss of the first stage; the others have none."""
        return super().mask_loss(stage, *args, **kwargs) if stage == 0 else dict(loss_mask={})

    def bbox_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]
    ) -> dict[str, Any]:
        """As in mmdet; then no box is left out of what is refined for the next stage."""
        results = super().bbox_loss(stage, x, sampling_results)
        for sampled in sampling_results:
            sampled.pos_is_gt = torch.zeros_like(sampled.pos_is_gt)
        return results

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        x = tuple(_ScaleGradient.apply(level, 1 / self.num_stages) for level in x)
        return super()._bbox_forward(stage, x, rois)

    def forward(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: list[DetDataSample],
    ) -> tuple[Any, ...]:
        """What the heads say of all proposals, with masks of the first hundred boxes.

        For tools that count or trace, as the ``forward`` of mmdet's ``StandardRoIHead``.
        """
        metas = [sample.metainfo for sample in batch_data_samples]
        proposals = [results.bboxes for results in rpn_results_list]
        counts = [len(boxes) for boxes in proposals]
        rois, scores, boxes = self._refine_roi(x, bbox2roi(proposals), metas, counts)
        if not self.with_mask:
            return scores, boxes
        masks = self._mask_forward(0, x, torch.cat(rois)[:100])['mask_preds']
        return scores, boxes, masks

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Masks of the boxes that were found; see mmdet's ``StandardRoIHead``."""
        rois = bbox2roi([result.bboxes for result in results_list])
        if not len(rois):
            return empty_instances(
                batch_img_metas,
                rois.device,
                task_type='mask',
                instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
        masks = self._mask_forward(0, x, rois)['mask_preds']
        return self.mask_head[0].predict_by_feat(
            mask_preds=masks.split([len(result) for result in results_list], 0),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )
