"""Scale consistency: what a model says about an image at a resolution teaches it at a lower one.

ResFormer: Scaling ViTs with Multi-Resolution Training (arXiv 2212.00776), Section 3.2: the class
token at the next higher resolution, whitened and without gradient, is the target of the class token
at the lower one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrest.errors import InputError

TARGETS = ('cls', 'gap', 'map')


@MODELS.register_module()
class ScaleConsistencyLoss(nn.Module):
    """Smooth-L1 distance of a student's features to a teacher's, which are detached and whitened.

    =======  =======================================================================================
    target   features
    =======  =======================================================================================
    ``cls``  the class token behind the final LayerNorm: the paper's, for ResFormer
    ``gap``  the mean over the last map of the backbone, whichever it is
    ``map``  the last map itself, the teacher's averaged over each cell of the student's grid; for
             dense prediction, not in the paper
    =======  =======================================================================================

    Args:
        target: See the table.
        loss_weight: Factor of the loss; 1 in the paper.
        beta: Where smooth-L1 changes from a square to a line; 1 in the paper.
        eps: Of the whitening, a LayerNorm without affine parameters.

    Raises:
        InputError: There is no such target.
    """

    def __init__(
        self, target: str = 'gap', loss_weight: float = 1.0, beta: float = 1.0, eps: float = 1e-6
    ) -> None:
        super().__init__()
        if target not in TARGETS:
            raise InputError(f'ScaleConsistencyLoss: target={target!r} must be one of {TARGETS}')
        self.target = target
        self.loss_weight = loss_weight
        self.beta = beta
        self.eps = eps

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """The weighted mean over all features.

        Args:
            student: Features at the lower resolution: (B, C), or for each image a map (C, h, w).
            teacher: Of the same images at the higher resolution, as many channels.
        """
        if not isinstance(student, Tensor):
            teacher = [
                F.adaptive_avg_pool2d(high, low.shape[-2:])
                for low, high in zip(student, teacher, strict=True)
            ]
            student, teacher = (
                torch.cat([image_map.flatten(1).t() for image_map in maps])
                for maps in (student, teacher)
            )
        # not in half precision, whatever autocast says
        student, teacher = student.float(), teacher.detach().float()
        target = F.layer_norm(teacher, teacher.shape[-1:], eps=self.eps)
        return self.loss_weight * F.smooth_l1_loss(student, target, beta=self.beta)


def features_of_map(
    last_map: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    batch_size: tuple[int, int],
    pool: bool,
) -> Tensor | list[Tensor]:
    """What a map says about each image, without what it says about the padding.

    Args:
        last_map: (B, C, h, w).
        image_sizes: (height, width) of each image in the padded batch.
        batch_size: (height, width) of the padded batch.
        pool: Average each image's part.

    Returns:
        The means (B, C), or a list of the images' own parts (C, h, w).
    """
    cells = last_map.shape[-2:]
    parts = [
        image_map[
            :, : _share(height, batch_size[0], cells[0]), : _share(width, batch_size[1], cells[1])
        ]
        for image_map, (height, width) in zip(last_map, image_sizes, strict=True)
    ]
    return torch.stack([part.mean(dim=(1, 2)) for part in parts]) if pool else parts


def _share(pixels: int, of_pixels: int, cells: int) -> int:
    """Cells that hold at least one of the first ``pixels``."""
    return max(1, min(cells, -(-pixels * cells // of_pixels)))
