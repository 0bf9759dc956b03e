from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from mmrest.engine.metric_names import coco_metric_names, metric_names


class Anything(BaseMetric):
    """Gives a value of 1 under any name that is asked for."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(own=1.0)


def coco_metric(folder: Path, **options: Any) -> Any:
    from mmdet.evaluation import CocoMetric

    file = folder / 'ann.json'
    categories = [dict(id=1, name='a')]
    images = [dict(id=1, file_name='1.jpg', height=8, width=8)]
    box = dict(bbox=[1, 1, 4, 4], area=16, iscrowd=0, segmentation=[[1, 1, 5, 1, 5, 5]])
    annotations = [dict(id=1, image_id=1, category_id=1, **box)]
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    metric = CocoMetric(ann_file=str(file), **options)
    metric.dataset_meta = dict(classes=('a',))
    return metric


@pytest.mark.parametrize('kinds', [['mIoU'], ['mDice', 'mIoU'], ['mFscore']])
def test_names_of_a_segmentors_metrics_are_known_beforehand(kinds: list[str]) -> None:
    pytest.importorskip('mmseg')
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(iou_metrics=kinds)
    metric.dataset_meta = dict(classes=('one', 'two'))
    labels = torch.tensor([[[0, 1], [1, 1]]])
    sample = dict(pred_sem_seg=dict(data=labels), gt_sem_seg=dict(data=labels))
    metric.process({}, [sample])
    assert metric_names(Evaluator(metric)) == list(metric.evaluate(1))


def test_names_that_depend_on_the_data_are_not_known(tmp_path: Path) -> None:
    for options in (dict(metric='proposal'), dict(metric='bbox', classwise=True)):
        assert metric_names(Evaluator(coco_metric(tmp_path, **options))) is None

    class OfSeveralDataSets(Evaluator):
        pass

    assert metric_names(OfSeveralDataSets(coco_metric(tmp_path, metric='bbox'))) is None
    assert metric_names(Evaluator(Anything())) is None


def test_a_metric_that_only_writes_files_has_no_names(tmp_path: Path) -> None:
    writes = coco_metric(tmp_path, metric='bbox', format_only=True, outfile_prefix='x')
    assert metric_names(Evaluator(writes)) == []


def test_other_metrics_have_no_names_of_coco(tmp_path: Path) -> None:
    assert coco_metric_names(object()) == []
    assert coco_metric_names(coco_metric(tmp_path, metric='proposal_fast')) == []
