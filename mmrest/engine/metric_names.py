"""The names of the metrics that mmdet's and mmseg's evaluators give, known before they evaluate."""

from __future__ import annotations

from typing import Any

from mmengine.evaluator import Evaluator

_COCO_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_LVIS_ITEMS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf')
_LABEL_MAP_ITEMS = {
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}


def metric_names(evaluator: Evaluator) -> list[str] | None:
    """All names of an evaluator's results, or None if they are not known beforehand."""
    if type(evaluator) is not Evaluator:  # those of several data sets put their names before
        return None
    names: list[str] = []
    for metric in evaluator.metrics:
        own = _names_of(metric)
        if own is None:
            return None
        names += own
    return names


def _names_of(metric: Any) -> list[str] | None:
    kind = type(metric).__name__
    if getattr(metric, 'format_only', False):
        return []
    if kind in ('CocoMetric', 'LVISMetric'):
        only_these = set(metric.metrics) <= {'bbox', 'segm'} and not metric.classwise
        return coco_metric_names(metric) if only_these else None
    if kind != 'IoUMetric':
        return None
    items = [item for kind in metric.metrics for item in _LABEL_MAP_ITEMS.get(kind, ())]
    prefix = f'{metric.prefix}/' if metric.prefix else ''
    return [f'{prefix}{item}' for item in ('aAcc', *dict.fromkeys(items))]


def coco_metric_names(metric: Any) -> list[str]:
    """The names that a COCO-like metric gives its boxes' and masks' results; else empty."""
    kinds = {kind.__name__ for kind in type(metric).__mro__}
    if 'CocoMetric' not in kinds or getattr(metric, 'format_only', False):
        return []
    items = metric.metric_items or (_LVIS_ITEMS if 'LVISMetric' in kinds else _COCO_ITEMS)
    prefix = f'{metric.prefix}/' if metric.prefix else ''
    return [
        f'{prefix}{kind}_{item}'
        for kind in metric.metrics
        if kind in ('bbox', 'segm')
        for item in items
    ]
