"""Changes of a config that ``tools/test.py`` asks for, for detectors and segmentors alike."""

from __future__ import annotations

import copy
import os

from mmengine.config import Config, ConfigDict

from mmrest.engine.config import task_model
from mmrest.errors import InputError


def show_results(cfg: Config, folder: str | None, window: bool, wait_time: float) -> None:
    """Draw predictions while testing.

    Args:
        cfg: Changed in place.
        folder: Where the pictures go, or None.
        window: Also show them.
        wait_time: How long each is shown, in seconds.

    Raises:
        InputError: The config has no visualization hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise InputError("--show and --show-dir need default_hooks['visualization'] in the config")
    hook.draw = True
    if window:
        hook.update(show=True, wait_time=wait_time)
    if folder and os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f'--show-dir {folder} is no folder')
    if folder and hook.type.endswith('DetVisualizationHook'):
        hook.test_out_dir = os.path.abspath(folder)
    elif folder:
        # mmseg's hook draws one in 50 pictures otherwise
        hook.interval = 1
        cfg.visualizer.save_dir = os.path.abspath(folder)


def use_tta(cfg: Config) -> None:
    """Test with the config's ``tta_model`` and ``tta_pipeline``; detectors have defaults (flip).

    Raises:
        InputError: A segmentor's config has none, or the detector predicts masks.
    """
    if (task_model(cfg).get('roi_head') or {}).get('mask_head'):
        raise InputError(
            '--tta: mmdet cannot merge masks over test-time augmentations; test without it'
        )
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        if cfg.get('default_scope') != 'mmdet':
            raise InputError('--tta needs tta_model and tta_pipeline in the config')
        cfg.setdefault(
            'tta_model',
            dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
            ),
        )
        if 'tta_pipeline' not in cfg:
            pipeline = copy.deepcopy(dataset.pipeline)
            pack = pipeline[-1]
            pack.meta_keys = (*pack.get('meta_keys', ()), 'flip', 'flip_direction')
            flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
            pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pack]])
            cfg.tta_pipeline = pipeline
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def dump_results(cfg: Config, out: str) -> None:
    """Keep the predictions of a test.

    Args:
        cfg: Changed in place.
        out: A ``.pkl`` file for all predictions, or for a segmentor a folder of label maps.

    Raises:
        InputError: ``out`` cannot be written, would overwrite something, or is no pickle for a
            detector.
    """
    folder = os.path.dirname(os.path.abspath(out)) if out.endswith(('.pkl', '.pickle')) else out
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f'--out {out} cannot be written: {error}') from error
    if not os.access(folder, os.W_OK):
        raise InputError(f'--out {out} cannot be written')
    if out.endswith(('.pkl', '.pickle')) and os.path.exists(out):
        raise InputError(f'--out {out} exists; name another file')
    if folder == out and any(name.endswith('.png') for name in os.listdir(folder)):
        raise InputError(f'--out {out} holds label maps already; name another folder')
    is_detector = cfg.get('default_scope') == 'mmdet'
    evaluators = cfg.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    if out.endswith(('.pkl', '.pickle')):
        kind = 'DumpDetResults' if is_detector else 'DumpResults'
        cfg.test_evaluator = [*evaluators, ConfigDict(type=kind, out_file_path=out)]
    elif is_detector:
        raise InputError(f"--out {out}: a detector's predictions go into a .pkl file")
    else:
        for evaluator in evaluators:
            if evaluator.type.endswith('IoUMetric'):
                evaluator.update(output_dir=out, keep_results=True)
