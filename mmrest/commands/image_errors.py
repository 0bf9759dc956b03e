"""Errors of images that cannot be read, in which OpenCV and torch do not always name the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
from mmengine.runner import Runner

from mmrest.errors import InputError, list_some

# (a worker's error quotes the lines of code before its text, so that the last match counts)
_DAMAGED = re.compile(r'failed to load image: (.+)')
_GONE = re.compile(r"No such file or directory: '(.+)'")


@contextmanager
def explain_image_errors(runner: Runner) -> Iterator[None]:
    """Say which image of a data set could not be read, also if a worker process tried.

    Raises:
        InputError: One is damaged, empty or gone; anything else is raised as it was.
    """
    try:
        yield
    except AssertionError as error:
        if not (found := _DAMAGED.findall(str(error))):
            raise
        raise InputError(
            f'{found[-1]} is damaged, cut short or no image: OpenCV cannot read it. Replace it, or '
            'take it out of the annotations'
        ) from error
    except cv2.error as error:
        if not (empty := _empty_images(runner)):
            raise
        raise InputError(
            f'empty files in place of images: {list_some(empty)}. Replace them, or take them out '
            'of the annotations'
        ) from error
    except FileNotFoundError as error:
        if not (found := _GONE.findall(str(error))):
            raise
        raise InputError(
            f'{found[-1]} is not there. Was the data set moved, or a disk unmounted?'
        ) from error


def _empty_images(runner: Runner) -> list[str]:
    """The empty files among the images of the data sets that are built."""
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    datasets = [getattr(getattr(loop, 'dataloader', None), 'dataset', None) for loop in loops]
    return [path for data in datasets for path in _image_paths(data) if _is_empty(path)]


def _image_paths(dataset: Any) -> Iterator[str]:
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if parts != [None]:  # it joins or repeats others
        for part in parts:
            yield from _image_paths(part)
    elif hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            yield from filter(None, [dataset.get_data_info(index).get('img_path')])


def _is_empty(path: str) -> bool:
    return os.path.isfile(path) and not os.path.getsize(path)
