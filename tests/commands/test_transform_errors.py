"""What a transform cannot take is named with its image, whoever read it."""

from __future__ import annotations

import time
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmcv.transforms import (
    BaseTransform,
    Compose,
    LoadImageFromFile,
    Normalize,
    RandomApply,
    Resize,
)
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmrest.commands import transform_errors
from mmrest.commands.data_errors import explain_data_errors
from mmrest.errors import InputError
from tests.commands.test_data_errors import Images


class OfOnesOwn(BaseTransform):
    """Has a mistake."""

    def transform(self, results: dict) -> dict:
        """Called for each image."""
        return {**results, 'more': results['gone']}


class Callable:
    """Derives from nothing, and has the same mistake."""

    def __call__(self, results: dict) -> dict:
        """Called for each image."""
        return {**results, 'more': results['gone']}


class CallsResize(BaseTransform):
    """Gives a transform of mmcv what it does not know."""

    def transform(self, results: dict) -> dict:
        """Called for each image."""
        return Resize(scale=[8, 6], keep_ratio=True)(results)


class Transformed(Images):
    def __init__(self, folder: Path, *transforms: Any) -> None:
        self.paths = sorted(folder.glob('*.png'))
        self.pipeline = Compose([LoadImageFromFile(color_type='unchanged'), *transforms])

    def __getitem__(self, index: int) -> np.ndarray:
        return self.pipeline(self.get_data_info(index))['img'].astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of four channels, and one of three."""
    for name, channels in (('a.png', 4), ('b.png', 3), ('c.png', 4)):
        cv2.imwrite(str(tmp_path / name), np.ones((6, 8, channels), np.uint8))
    return tmp_path


def read(dataset: Dataset, workers: int) -> None:
    runner = SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=None)
    with explain_data_errors(runner):
        for _ in DataLoader(dataset, num_workers=workers):
            pass


@pytest.mark.parametrize('workers', [0, 2])
def test_an_image_of_other_channels_is_named_with_them(workers: int, folder: Path) -> None:
    four = Normalize(mean=[120.0] * 4, std=[58.0] * 4, to_rgb=False)
    said = rf'Normalize of 4 means of the pipeline has failed at {folder}/b\.png \(6x8, 3 ch'
    with pytest.raises(InputError, match=f'{said}.*Sizes of input arguments do not match'):
        read(Transformed(folder, four), workers)


@pytest.mark.parametrize('workers', [0, 2])
def test_arguments_that_a_transform_does_not_know_are_told_with_its_place(
    workers: int, folder: Path
) -> None:
    said = r'Resize of the pipeline has failed at .*\.png .*TypeError: Scale must be .*\.py:\d+'
    with pytest.raises(InputError, match=said):
        read(Transformed(folder, Resize(scale=[8, 6], keep_ratio=True)), workers)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('transform', 'said'),
    [
        (OfOnesOwn(), 'gone'),
        (RandomApply([Callable()], prob=1.0), 'gone'),  # mmcv's own transform calls it
        (CallsResize(), 'Scale must be'),  # which cannot take what it is given
    ],
    ids=['derived', 'callable', 'calls'],
)
def test_a_mistake_in_a_transform_of_ones_own_keeps_its_traceback(
    transform: Any, said: str, workers: int, folder: Path
) -> None:
    with pytest.raises((KeyError, TypeError), match=said):
        read(Transformed(folder, transform), workers)


@pytest.mark.parametrize('seed', range(3))
def test_an_image_that_is_drawn_late_is_found_at_once(
    seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large set is not read anew from its beginning."""
    monkeypatch.setattr(transform_errors, '_SECONDS', 1.0)

    class Large(Transformed):
        def __getitem__(self, index: int) -> np.ndarray:
            if not get_worker_info():
                time.sleep(0.1)
            return super().__getitem__(index)

    dataset = Large(folder, Normalize(mean=[120.0] * 4, std=[58.0] * 4, to_rgb=False))
    dataset.paths = [folder / 'a.png'] * 60
    dataset.paths[57] = folder / 'b.png'
    sampler = DefaultSampler(dataset, shuffle=True, seed=seed)
    runner = SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=None)
    with pytest.raises(InputError, match=r'b\.png'), explain_data_errors(runner):
        for _ in DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=2):
            pass


def test_the_images_that_are_mixed_are_all_named(folder: Path) -> None:
    class Mixes(Resize):
        def transform(self, results: dict) -> dict:
            results['mix_results'] = [dict(img_path='other.png', img=np.ones((2, 3)))]
            raise ValueError('could not broadcast')

    as_of_mmdet = dict(__name__='mmdet.datasets.transforms', np=np)
    Mixes.transform = FunctionType(Mixes.transform.__code__, as_of_mmdet)
    Mixes.__module__ = as_of_mmdet['__name__']
    dataset = Transformed(folder, Mixes(scale=(8, 6)))
    said = r'one of .*a\.png \(6x8, 4 channels\), other\.png \(2x3, 1 channel\): ValueError'
    with pytest.raises(InputError, match=said):
        read(dataset, 0)


def test_what_does_not_fail_again_is_as_it_was(folder: Path) -> None:
    class Once(Transformed):
        def __getitem__(self, index: int) -> np.ndarray:
            if (folder / 'failed').exists():
                return super().__getitem__(index)
            (folder / 'failed').touch()
            raise TypeError('this time')

    with pytest.raises(TypeError, match='this time'):
        read(Once(folder), 1)
