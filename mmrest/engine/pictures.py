"""Hooks that write a picture or a label map for every image of a test."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.dist import barrier
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmrest.engine.file_plan import plan_files
from mmrest.errors import InputError


class _FileForEachImage(Hook):
    """Writes a file for every image of a test, all of which are planned before it begins."""

    priority = 'LOW'
    option: str
    suffix: str | None = None

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir
        self._plan: dict[str, Path] = {}

    def before_test(self, runner: Runner) -> None:
        """Called by the runner before the first batch.

        Raises:
            InputError: Something would be overwritten.
        """
        dataset = runner.test_dataloader.dataset
        images = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        self._plan = plan_files(
            images, self.out_dir, self.option, keep_folders=True, suffix=self.suffix
        )
        barrier()  # no process writes what another one still looks for

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence = ()
    ) -> None:
        """Called by the runner after each batch."""
        for sample in outputs:
            path = self._plan[sample.img_path]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write(runner, sample, path)

    @abstractmethod
    def write(self, runner: Runner, sample: Any, path: Path) -> None:
        """Write the file of an image."""


@HOOKS.register_module()
class DrawPredictionsHook(_FileForEachImage):
    """Draws the predictions of a test into a picture for each image.

    mmdet's and mmseg's own hooks overwrite pictures of images of the same name, and mmdet's, given
    an absolute folder, whatever it holds.

    Args:
        out_dir: Folder of the pictures, in the sub-folders of the images.
        score_thr: Detections below it are not drawn.
    """

    option = '--show-dir'

    def __init__(self, out_dir: str, score_thr: float = 0.3) -> None:
        super().__init__(out_dir)
        self.score_thr = score_thr

    def write(self, runner: Runner, sample: Any, path: Path) -> None:
        """Draw the predictions of an image."""
        image = mmcv.imfrombytes(get(sample.img_path), channel_order='rgb')
        draw = runner.visualizer.add_datasample
        takes_threshold = 'pred_score_thr' in inspect.signature(draw).parameters
        options = dict(pred_score_thr=self.score_thr) if takes_threshold else {}
        draw(path.name, image, data_sample=drawable(sample), out_file=str(path), **options)


def drawable(sample: Any) -> Any:
    """A sample as mmseg can draw it; NumPy takes tensors of one pixel for numbers."""
    is_label_map = 'pred_sem_seg' in sample and 'pred_instances' not in sample
    return sample.numpy() if is_label_map else sample


@HOOKS.register_module()
class SaveLabelMapsHook(_FileForEachImage):
    """Keeps the label maps that a segmentor predicts in a test, as PNG.

    Labels are those of the data set's files: with ``reduce_zero_label`` they begin with 1, as
    mmseg's ``IoUMetric`` writes them.

    Args:
        out_dir: Folder of the label maps, in the sub-folders of the images.
    """

    option = '--out'
    suffix = '.png'

    def write(self, runner: Runner, sample: Any, path: Path) -> None:
        """Write the label map of an image."""
        labels = sample.pred_sem_seg.data.squeeze().cpu().numpy()
        labels = labels + bool(sample.get('reduce_zero_label', False))
        kind = np.uint8 if labels.max() < 256 else np.uint16
        if not cv2.imwrite(str(path), np.atleast_2d(labels).astype(kind)):
            raise InputError(f'{path} cannot be written')
