"""What a transform of a pipeline could not do, and with which image, in one line."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from traceback import extract_tb, walk_tb
from types import FrameType
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmrest.engine.config_errors import is_of_libraries

# of transforms of one's own the traceback is wanted
_LIBRARIES = 'mmcv', 'mmdet', 'mmseg', 'mmrest'
# to find an image again that a worker process had
_SECONDS = 20.0


def explain_transform(error: Exception) -> str | None:
    """Which transform has failed, and at which image; None if it was something else.

    Of what failed in a worker process nothing but a text is here. So images are read again until
    the same fails: those that were drawn last first, then all in their order.

    Args:
        error: As it was caught, with its traceback.
    """
    if 'in DataLoader worker process' in str(error):
        again = _fail_again(error)
        return again and explain_transform(again)
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    calls = [frame for frame in frames if _is_call_of_a_transform(frame.f_code)]
    if not calls or not all(map(_is_of_libraries, frames[frames.index(calls[0]) :])):
        return None
    kind, results = type(calls[-1].f_locals['self']), calls[-1].f_locals['results']
    if kind.__module__.partition('.')[0] not in _LIBRARIES:
        return None
    last = extract_tb(error.__traceback__)[-1]
    text = ' '.join(str(error).split()) or last.line
    means = getattr(calls[-1].f_locals['self'], 'mean', ())
    means = f' of {len(means)} means' if np.ndim(means) == 1 and len(means) else ''
    return (
        f'the {kind.__name__}{means} of the pipeline has failed at {_describe(results)}: '
        f'{type(error).__name__}: {text} ({last.filename}:{last.lineno})'
    )


def _is_of_libraries(frame: FrameType) -> bool:
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    return package in _LIBRARIES or is_of_libraries(frame.f_code.co_filename)


def _is_call_of_a_transform(code: Any) -> bool:
    return code is BaseTransform.__call__.__code__


def _describe(results: Mapping[str, Any]) -> str:
    others = results.get('mix_results')  # that a Mosaic, for example, puts beside it
    if others:
        return 'one of ' + ', '.join(map(_describe_image, (results, *others)))
    return _describe_image(results)


def _describe_image(results: Mapping[str, Any]) -> str:
    path = results.get('img_path') or 'an image'
    image = results.get('img')
    if not isinstance(image, np.ndarray):
        return path
    height, width, channels = (*image.shape, 1)[:3]
    return f'{path} ({height}x{width}, {channels} channel{"s" if channels > 1 else ""})'


def _fail_again(error: Exception) -> Exception | None:
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    owners = (frame.f_locals.get('self') for frame in frames)
    batches = next((owner for owner in owners if hasattr(owner, '_dataset')), None)
    if batches is None or not hasattr(batches._dataset, '__len__'):
        return None
    dataset, end = batches._dataset, time.monotonic() + _SECONDS
    for index in itertools.chain(_lately_drawn(batches), range(len(dataset))):
        if time.monotonic() > end:
            break
        try:
            dataset[index]
        except Exception as found:
            if type(found) is type(error):
                return found
    return None


def _lately_drawn(batches: Any) -> list[int]:
    """What a sampler has drawn until the batch that a loader has just received, the last first."""
    of_batches = batches._index_sampler
    if not hasattr(of_batches, 'sampler'):  # there are no batches
        return []
    # a few more: those of one aspect ratio wait for each other
    count = (getattr(batches, '_rcvd_idx', 0) + 2) * getattr(of_batches, 'batch_size', 1)
    # a sampler of mmengine draws the same again
    return list(itertools.islice(of_batches.sampler, count))[::-1]
