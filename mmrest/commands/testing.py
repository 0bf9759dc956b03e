"""Changes of a config that ``tools/test.py`` asks for, for detectors and segmentors alike."""

from __future__ import annotations

import copy
import os

from mmengine.config import Config, ConfigDict

from mmrest.commands.config import require_model
from mmrest.commands.output_files import make_folder
from mmrest.commands.processes import warn
from mmrest.config_nodes import datasets_of, iterate_dicts, scope_of, task_model, type_name
from mmrest.errors import InputError

_PICKLES = ('.pkl', '.pickle')
# What merging the views of an image asks of each.
_TTA_META_KEYS = (
    *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'),
)


def show_results(cfg: Config, folder: str | None, window: bool, wait_time: float) -> None:
    """Draw predictions while testing.

    Args:
        cfg: Changed in place.
        folder: Where a picture of every image goes, or None; nothing there is overwritten.
        window: Also show them.
        wait_time: How long each is shown, in seconds.

    Raises:
        InputError: The config has no visualizer or, for a window, no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if window:
        if not hook:
            raise InputError("--show needs default_hooks['visualization'] in the config")
        hook.update(draw=True, show=True, wait_time=wait_time)
        if 'Seg' in type_name(hook):
            hook.interval = 1  # mmseg's hook draws one in 50 pictures otherwise
    if not folder:
        return
    if not cfg.get('visualizer'):
        raise InputError('--show-dir needs a visualizer in the config')
    make_folder('--show-dir', folder)
    threshold = (hook or {}).get('score_thr', 0.3)
    _add_hook(cfg, type='DrawPredictionsHook', out_dir=folder, score_thr=threshold)


def use_fused_model(cfg: Config) -> None:
    """Test with the model fused for inference; see :class:`mmrest.engine.fusing.FuseHook`."""
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='mmrest.FuseHook')]


def use_tta(cfg: Config) -> None:
    """Test with the config's ``tta_model`` and ``tta_pipeline``; detectors have defaults (flip).

    Masks are merged as detectron2 does, by :class:`mmrest.engine.mask_tta.MaskTTAModel`.

    Raises:
        InputError: A segmentor's config has none, or the model's masks cannot be merged.
    """
    require_model(cfg, '--tta')
    datasets = [node for node in datasets_of(cfg.test_dataloader) if node.get('pipeline')]
    if not datasets:
        raise InputError('--tta needs a test_dataloader whose data set has a pipeline')
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        if scope_of(cfg) != 'mmdet':
            raise InputError('--tta needs tta_model and tta_pipeline in the config')
        cfg.setdefault('tta_model', _default_tta_model())
        if 'tta_pipeline' not in cfg:
            pipeline = copy.deepcopy(datasets[0].pipeline)
            flips = [dict(type='mmdet.RandomFlip', prob=prob) for prob in (1.0, 0.0)]
            pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pipeline[-1]]])
            cfg.tta_pipeline = pipeline
    if scope_of(cfg) == 'mmdet':
        _name_meta_keys(cfg.tta_pipeline)
        if _predicts_masks(cfg):
            _merge_masks(cfg)
    for dataset in datasets:  # a ConcatDataset has several
        if doubt := _reads_otherwise(dataset.pipeline, cfg.tta_pipeline):
            warn(doubt)
        dataset.pipeline = copy.deepcopy(cfg.tta_pipeline)
    tta_model = cfg.tta_model.copy()
    tta_model.module = cfg.model
    cfg.model = tta_model


def _reads_otherwise(pipeline: list[dict], tta_pipeline: list[dict]) -> str | None:
    """That views have other pixels than a test's, as where a base's ``tta_pipeline`` is left."""
    text = (
        'make tta_pipeline of the same steps as the test pipeline, for --tta uses it in its place'
    )
    loading, of_views = map(_loading, (pipeline, tta_pipeline))
    if loading and of_views and loading != of_views:
        return f'the test pipeline begins with {loading}, and tta_pipeline with {of_views}: {text}'
    normalizes, views_do = (
        any(type_name(step) == 'Normalize' for step in iterate_dicts(steps))
        for steps in (pipeline, tta_pipeline)
    )
    if normalizes != views_do:
        return f'only one of the test pipeline and tta_pipeline has a Normalize: {text}'
    return None


def _loading(pipeline: list[dict]) -> dict | None:
    """The first step of a pipeline, without where it reads from; None if it loads no image."""
    first = pipeline[0] if pipeline else {}
    if not type_name(first).startswith('Load'):
        return None
    options = {key: value for key, value in first.items() if not key.endswith('_args')}
    return {**options, 'type': type_name(first)}


def _default_tta_model() -> ConfigDict:
    nms = dict(type='nms', iou_threshold=0.5)
    return ConfigDict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))


def _name_meta_keys(pipeline: list[dict]) -> None:
    """Make the views' samples carry what merging needs, whatever the config's own keys are."""
    for view in pipeline[-1].get('transforms', [[pipeline[-1]]])[-1]:
        if type_name(view) == 'PackDetInputs':
            view.meta_keys = tuple(dict.fromkeys((*view.get('meta_keys', ()), *_TTA_META_KEYS)))


def _predicts_masks(cfg: Config) -> bool:
    model = task_model(cfg)
    evaluators = cfg.get('test_evaluator') or ()
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    kinds = [metric for evaluator in evaluators for metric in _metrics_of(evaluator)]
    return bool((model.get('roi_head') or {}).get('mask_head')) or 'segm' in kinds


def _metrics_of(evaluator: ConfigDict) -> list[str]:
    metric = evaluator.get('metric') or ()
    return [metric] if isinstance(metric, str) else list(metric)


def _merge_masks(cfg: Config) -> None:
    head = task_model(cfg).get('roi_head') or {}
    if type_name(head) not in ('StandardRoIHead', 'CascadeRoIHead') or not head.get('mask_head'):
        raise InputError(
            f'--tta: the masks of {type_name(task_model(cfg))} with '
            f'{type_name(head) or "no RoI head"} cannot be merged over views (those of '
            'StandardRoIHead and CascadeRoIHead can); test without it'
        )
    if type_name(cfg.tta_model) == 'DetTTAModel':
        cfg.tta_model.type = 'mmrest.engine.mask_tta.MaskTTAModel'


def dump_results(cfg: Config, out: str) -> None:
    """Keep the predictions of a test.

    Args:
        cfg: Changed in place.
        out: A ``.pkl`` file for all predictions, or for a segmentor a folder of label maps.

    Raises:
        InputError: ``out`` cannot be written, would overwrite something, or is no pickle for a
            detector.
    """
    require_model(cfg, '--out')
    is_detector = scope_of(cfg) == 'mmdet'
    if not out.endswith(_PICKLES):
        if is_detector:
            raise InputError(f"--out {out}: a detector's predictions go into a .pkl file")
        make_folder('--out', out)
        _add_hook(cfg, type='SaveLabelMapsHook', out_dir=out)
        return
    make_folder('--out', os.path.dirname(os.path.abspath(out)))
    if os.path.exists(out):
        raise InputError(f'--out {out} exists; name another file')
    evaluators = cfg.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    kind = 'mmdet.DumpDetResults' if is_detector else 'DumpResults'
    cfg.test_evaluator = [*evaluators, ConfigDict(type=kind, out_file_path=out)]


def _add_hook(cfg: Config, **hook: object) -> None:
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
