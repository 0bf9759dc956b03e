"""The size of a config's images."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from mmrest.config_nodes import task_model, type_name
from mmrest.errors import InputError

OF_PAPERS = 800, 1344  # COCO's largest images, padded


def usual_shape(cfg: Config) -> tuple[int, int]:
    """(height, width) of a segmentor's crops or a detector's largest test images.

    Where neither is told, it is that of COCO's papers.
    """
    preprocessor = task_model(cfg).get('data_preprocessor') or {}
    if size := preprocessor.get('size'):
        return tuple(size)
    try:
        short, long = sorted(find_resize(cfg).scale)
    except InputError:
        return OF_PAPERS
    divisor = preprocessor.get('pad_size_divisor', 1)
    return math.ceil(short / divisor) * divisor, math.ceil(long / divisor) * divisor


def find_resize(cfg: Config) -> ConfigDict:
    """The transform that gives test images their size.

    Raises:
        InputError: The test pipeline has none, or several, or another one that fixes the size.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = dataset.get('pipeline')
    if not pipeline:
        raise InputError('--resolutions needs a test_dataloader with one data set and a pipeline')
    found = [t for t in pipeline if type_name(t) == 'Resize' and t.get('scale')]
    fixed = [t for t in pipeline if type_name(t) == 'Pad' and t.get('size')]
    if len(found) != 1 or isinstance(found[0].scale, int) or fixed:
        raise InputError(
            '--resolutions needs exactly one Resize with scale=(width, height) in the test '
            'pipeline, and no Pad to a fixed size; this one has '
            f'{", ".join(map(type_name, pipeline))}'
        )
    return found[0]
