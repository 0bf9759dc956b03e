"""Errors of data that show only in a run, in which libraries do not always name the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import extract_tb, walk_tb
from typing import Any

import cv2
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmrest.commands.transform_errors import explain_transform
from mmrest.engine.run_checks import files_of, saved_last
from mmrest.errors import InputError, list_some
from mmrest.wrappers import unwrap_model

# (a worker's error quotes the lines of code before its text, so that the last match counts)
_DAMAGED = re.compile(r'failed to load image: (.+)')
_GONE = re.compile(r"No such file or directory: '(.+)'")
NO_SIZE = 'is so thin that its shorter side has no pixel left at the scale of the pipeline'
_THIN = 50  # times as long as wide
# what torch says where mmseg's metric compares a label map with a prediction, which has the size of
# the image as it is in its file
_OF_PREDICTION = 'The shape of the mask .* does not match the shape of the indexed tensor'
_OF_DATA = (
    *(AssertionError, cv2.error, OSError, ValueError, RuntimeError, IndexError),
    *(TypeError, KeyError, AttributeError),
)
_IN_COLOUR = 'in colour; one number for each pixel is read'
# what torch says of a batch that does not fit together, and what it means
_BATCHES = {
    'stack expects each tensor to be equal size': (
        'the images or label maps of a batch have several sizes, perhaps because a label map has '
        'another size than its image'
    ),
    _OF_PREDICTION: 'a label map has another size than its image',
    r'Target -?\d+ is out of bounds': 'a label map has a label of no class',
    'device-side assert triggered': (
        'the GPU has stopped at a number that is out of range, mostly a label of no class'
    ),
}


@contextmanager
def explain_data_errors(runner: Runner) -> Iterator[None]:
    """Say which file of a data set a run cannot go on with, also if a worker process read it.

    Raises:
        InputError: An image or label map is damaged, empty or gone, a transform cannot take it, a
            batch does not fit together, or no image is left; anything else is raised as it was.
    """
    try:
        yield
    except InputError:
        raise
    except _OF_DATA as error:
        if not (text := _explanation(error, runner) or explain_transform(error)):
            raise
        raise InputError(text) from error


def _explanation(error: Exception, runner: Runner) -> str | None:
    if isinstance(error, AssertionError | cv2.error | FileNotFoundError):
        return _what_is_wrong_with_an_image(error, runner)
    if isinstance(error, OSError):
        # Pillow's have no number; it reads the label maps
        path = _damaged_label_map(runner) if error.errno is None else None
        return path and (
            f'the label map {path} is damaged, cut short or no image: Pillow cannot read it'
        )
    if (lost := re.search(r'DataLoader worker \(pid.*', str(error))) and 'timed out' not in lost[0]:
        return (
            f'a worker process that reads images was ended ({lost[0]}), as a system does that has '
            f'no memory left: take a smaller num_workers. {saved_last(runner.work_dir)}'
        )
    if 'Expected more than 1 value per channel' in str(error):
        return (
            f'a BatchNorm has one number for each channel to train with ({error}), as where a head '
            'pools a batch of one image to one pixel: take train_dataloader.batch_size=2 or more'
        )
    if isinstance(error, ValueError):
        if '_serialize_data' not in (frame.name for frame in extract_tb(error.__traceback__)):
            return None
        return (
            'no image of a data set is left when those without annotations and those that are too '
            'small are taken out (filter_cfg=dict(filter_empty_gt=..., min_size=...))'
        )
    return _what_is_wrong_with_a_batch(error, runner)


def _what_is_wrong_with_a_batch(error: Exception, runner: Runner) -> str | None:
    meanings = (text for said, text in _BATCHES.items() if re.search(said, str(error)))
    if not (meaning := next(meanings, None)):
        return None
    batch = _batch_of(error)
    predicted = re.search(_OF_PREDICTION, str(error)) is not None
    found = _label_maps_at_fault(batch, runner.model, predicted)
    at_fault = list_some(found)
    if any(_IN_COLOUR in one for one in found):
        meaning = 'label maps are in colour'
    return (
        f'{meaning} ({str(error).splitlines()[0]}). '
        f'{at_fault or f"Images of the batch: {files_of(batch)}"}'
    )


def _what_is_wrong_with_an_image(error: Exception, runner: Runner) -> str | None:
    if isinstance(error, AssertionError) and (found := _DAMAGED.findall(str(error))):
        return (
            f'{found[-1]} is damaged, cut short or no image: OpenCV cannot read it. Replace it, or '
            'take it out of the annotations'
        )
    if isinstance(error, cv2.error) and (empty := _empty_images(runner)):
        return (
            f'empty files in place of images: {list_some(empty)}. Replace them, or take them out '
            'of the annotations'
        )
    if is_of_no_size(error):
        images = _thin_images(error, runner)
        if not any(map(_is_thin, images)):
            found = list_some(images) or 'an image'
            return f'the scale that the pipeline resizes {found} to leaves it no pixel: {error}'
        return (
            f'{list_some(images)} {NO_SIZE}. Take it out of the annotations, or resize to a larger '
            'scale'
        )
    gone = _GONE.findall(str(error))[-1:] if isinstance(error, FileNotFoundError) else []
    # a transform of one's own may miss another file
    if gone and any(gone[0] in paths for paths in _files_of_images(runner)):
        return f'{gone[0]} is not there. Was the data set moved, or a disk unmounted?'
    return None


def is_of_no_size(error: Exception) -> bool:
    """Whether OpenCV was to resize an image to a side without a pixel."""
    return isinstance(error, cv2.error) and 'resize' in str(error) and 'inv_scale' in str(error)


def _thin_images(error: Exception, runner: Runner) -> list[str]:
    for frame, _ in walk_tb(error.__traceback__):
        results = frame.f_locals.get('results')
        if isinstance(results, Mapping) and 'img_path' in results:
            return [results['img_path']]
    return [path for path in _images_of(runner) if _is_thin(path)]  # a worker process read it


def _is_thin(path: str) -> bool:
    try:
        with Image.open(path) as image:
            return max(image.size) > _THIN * min(image.size)
    except OSError:
        return False


def _batch_of(error: Exception) -> Any:
    """The batch that a step was at work on; a validation's is within a training's."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    batches = [f.f_locals['data_batch'] for f in frames if 'data_batch' in f.f_locals]
    return batches[-1] if batches else None


def _label_maps_at_fault(batch: Any, model: nn.Module, predicted: bool) -> list[str]:
    """Those of a batch with labels of no class, in colour, or of another size than their images.

    Args:
        batch: As the loader gives it.
        model: Tells the number of classes.
        predicted: They are compared with predictions, not with what the model is given.
    """
    head = getattr(unwrap_model(model), 'decode_head', None)
    if not isinstance(batch, Mapping) or not hasattr(head, 'num_classes'):
        return []
    found = []
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        labels, path = sample.gt_sem_seg.data, sample.get('seg_map_path', 'unknown')
        if labels.dim() != 3 or len(labels) != 1:  # (H, W, channels), or one more of a batch
            found.append(f'{path} ({_IN_COLOUR})')
            continue
        size = tuple(sample.ori_shape[:2] if predicted else image.shape[-2:])
        if labels.shape[-2:] != size:
            own, other = (f'{width}x{height}' for height, width in (labels.shape[-2:], size))
            found.append(f'{path} ({own}; its image {other}, width x height)')
            continue
        values = labels.unique()
        strange = values[(values >= head.num_classes) & (values != head.ignore_index)].tolist()
        if strange:
            found.append(f'{path} (labels {list_some(strange)} of {head.num_classes} classes)')
    # a small set stands in a batch several times, perhaps cropped in several ways
    return list({one.partition(' (')[0]: one for one in reversed(found)}.values())[::-1]


def _empty_images(runner: Runner) -> list[str]:
    """The empty files among the images of the data sets that are built."""
    return [path for path in _images_of(runner) if _is_empty(path)]


def _damaged_label_map(runner: Runner) -> str | None:
    for path in _images_of(runner, 'seg_map_path'):
        try:
            with Image.open(path) as image:
                image.load()
        except OSError:
            return path
    return None


def _images_of(runner: Runner, key: str = 'img_path') -> Iterator[str]:
    for info in _infos_of(runner):
        yield from filter(None, [info.get(key)])


def _files_of_images(runner: Runner) -> Iterator[list[Any]]:
    """Of each image its own path, its label map's and whatever else a data set names."""
    for info in _infos_of(runner):
        yield [path for key, path in info.items() if key.endswith('_path')]


def _infos_of(runner: Runner) -> Iterator[Mapping[str, Any]]:
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        yield from _infos(getattr(getattr(loop, 'dataloader', None), 'dataset', None))


def _infos(dataset: Any) -> Iterator[Mapping[str, Any]]:
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if parts != [None]:  # it joins or repeats others
        for part in parts:
            yield from _infos(part)
    elif hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            yield dataset.get_data_info(index)


def _is_empty(path: str) -> bool:
    return os.path.isfile(path) and not os.path.getsize(path)
