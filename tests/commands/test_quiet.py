"""The commands' output is not buried under what the libraries say in every run."""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope

from mmrest.commands.quiet import hide_library_noise
from mmrest.lookup import get_config

Run = Callable[..., subprocess.CompletedProcess]


@pytest.mark.parametrize('name', ['retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'])
def test_predicting_says_what_it_does(name: str, run_tool: Run, tmp_path: Path) -> None:
    cfg = get_config(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        state = MODELS.build(cfg.model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'model.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((40, 60, 3), np.uint8))
    result = run_tool('predict.py', name, 'model.pth', 'a.png', '--out-dir', 'out', cwd=tmp_path)
    assert result.returncode == 0
    said = result.stdout + result.stderr
    assert 'out/a.png' in said
    for noise in ('faster_coco_eval', 'Failed to search registry', 'Failed to add'):
        assert noise not in said


def test_other_warnings_are_said() -> None:
    registry = 'Failed to search registry with scope "mmdet" in the "{}" registry tree.'
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)  # a runner of before may have had another
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            hide_library_noise()
            hide_library_noise()
            for text in ('faster_coco_eval is not installed, metrics', 'class names are not saved'):
                warnings.warn(text, stacklevel=1)
            for tree in ('function', 'model'):
                logger.warning(registry.format(tree))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [str(warning.message) for warning in caught] == ['class names are not saved']
    assert records == [registry.format('model')]
