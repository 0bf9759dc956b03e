"""Images that cannot be read are named, whoever read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.structures import BaseDataElement, PixelData
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.evaluation import IoUMetric
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from mmrest.commands.data_errors import explain_data_errors
from mmrest.errors import InputError


class Images(Dataset):
    metainfo = {}

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob('*.jpg'))

    def full_init(self) -> None: ...

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict:
        return dict(img_path=str(self.paths[index]))

    def __getitem__(self, index: int) -> np.ndarray:
        return LoadImageFromFile()(self.get_data_info(index))['img']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ('a.jpg', 'b.jpg', 'c.jpg'):
        cv2.imwrite(str(tmp_path / name), noise)
    return tmp_path


def read_all(dataset: Dataset, workers: int) -> None:
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    runner = SimpleNamespace(_train_loop=loop, _val_loop=None, _test_loop={})
    with explain_data_errors(runner):
        for _ in DataLoader(dataset, num_workers=workers):
            pass


class Resized(Images):
    scale = (96, 64)

    def __getitem__(self, index: int) -> np.ndarray:
        results = LoadImageFromFile()(self.get_data_info(index))
        return Resize(scale=self.scale, keep_ratio=True)(results)['img']


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_resizing_leaves_nothing_of_is_named(folder: Path, workers: int) -> None:
    cv2.imwrite(str(folder / 'b.jpg'), np.zeros((3, 2000, 3), np.uint8))
    with pytest.raises(InputError, match=r'b\.jpg is so thin that its shorter side has no pixel'):
        read_all(Resized(folder), workers)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_scale_without_a_pixel_is_not_blamed_on_the_image(folder: Path, workers: int) -> None:
    dataset = Resized(folder)
    dataset.scale = (0, 0)
    with pytest.raises(InputError, match=r'the scale that the pipeline resizes .* to leaves it no'):
        read_all(dataset, workers)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('join', [False, True])
@pytest.mark.parametrize(
    ('content', 'said'),
    [
        (b'hello', 'is damaged'),
        (b'\xff\xd8\xff', 'is damaged'),
        (b'', 'empty files'),
        (None, 'is not there'),
    ],
)
def test_an_image_that_cannot_be_read_is_named(
    content: bytes | None, said: str, join: bool, workers: int, folder: Path
) -> None:
    dataset = Images(folder)
    read_all(dataset, workers)
    if content is None:
        (folder / 'b.jpg').unlink()
    else:
        (folder / 'b.jpg').write_bytes(content)
    whole = ConcatDataset([dataset]) if join else dataset
    with pytest.raises(InputError, match=said) as caught:
        read_all(whole, workers)
    assert str(folder / 'b.jpg') in str(caught.value)
    assert 'a.jpg' not in str(caught.value)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_file_that_is_none_of_the_data_set_is_not_taken_for_one(
    workers: int, folder: Path
) -> None:
    class ReadsMore(Images):
        def __getitem__(self, index: int) -> bytes:
            return Path('of/my/own.bin').read_bytes()

    with pytest.raises(FileNotFoundError, match=r'own\.bin') as caught:
        read_all(ReadsMore(folder), workers)
    assert 'data set moved' not in str(caught.value)


def test_other_errors_are_as_they_were() -> None:
    for error in (AssertionError('shapes differ'), cv2.error('resize'), FileNotFoundError('no')):
        with (
            pytest.raises(type(error)),
            explain_data_errors(SimpleNamespace(_train_loop=None, _val_loop=None, _test_loop=None)),
        ):
            raise error


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (RuntimeError('stack expects each tensor to be equal size, but got [1]'), 'several sizes'),
        (IndexError('Target 76 is out of bounds.'), 'a label of no class'),
        (RuntimeError('CUDA error: device-side assert triggered\nmore'), 'GPU has stopped'),
    ],
)
def test_a_batch_that_does_not_fit_together_is_named(error: Exception, said: str) -> None:
    def run_iter(data_batch: dict) -> None:
        raise error

    samples = [SimpleNamespace(img_path='a.jpg'), SimpleNamespace(img_path='b.jpg')]
    with (
        pytest.raises(InputError, match=f'{said}.*a.jpg, b.jpg'),
        explain_data_errors(SimpleNamespace(model=nn.Identity())),
    ):
        run_iter(dict(data_samples=samples))


def label_map(path: str, labels: list[list[int]]) -> BaseDataElement:
    sample = BaseDataElement(metainfo=dict(seg_map_path=path))
    sample.gt_sem_seg = PixelData(data=torch.tensor([labels]))
    return sample


@pytest.mark.parametrize(
    ('labels', 'said'),
    [
        ([[0, 1], [7, 255]], r'b\.png \(labels 7 of 2 classes\)$'),
        ([[0, 1, 1], [0, 1, 1]], r'b\.png \(3x2; its image 2x2, width x height\)$'),
    ],
)
def test_the_label_map_at_fault_is_named(labels: list[list[int]], said: str) -> None:
    def run_iter(data_batch: dict) -> None:
        raise IndexError('Target 7 is out of bounds.')

    model = nn.Module()
    model.decode_head = SimpleNamespace(num_classes=2, ignore_index=255)
    samples = [label_map('a.png', [[0, 1], [1, 255]]), label_map('b.png', labels)]
    batch = dict(inputs=[torch.zeros(3, 2, 2)] * 2, data_samples=samples)
    with (
        pytest.raises(InputError, match=said),
        explain_data_errors(SimpleNamespace(model=model)),
    ):
        run_iter(batch)


def test_a_label_map_that_no_prediction_fits_is_named() -> None:
    """In validation, where it is compared with a prediction of the image's own size."""
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    maps = [torch.zeros(1, 4, 6, dtype=torch.long), torch.zeros(1, 6, 4, dtype=torch.long)]
    samples = []
    for name, labels in zip('ab', maps, strict=True):
        sample = BaseDataElement(metainfo=dict(seg_map_path=f'{name}.png', ori_shape=(4, 6)))
        sample.gt_sem_seg = PixelData(data=labels)
        sample.pred_sem_seg = PixelData(data=torch.zeros(1, 4, 6, dtype=torch.long))
        samples.append(sample)

    def run_iter(data_batch: dict) -> None:
        metric.process(data_batch, [sample.to_dict() for sample in samples])

    def run(data_batch: dict) -> None:  # a training, within which the validation is
        run_iter(batch)

    model = nn.Module()
    model.decode_head = SimpleNamespace(num_classes=2, ignore_index=255)
    # the model sees them at another size
    batch = dict(inputs=[torch.zeros(3, 8, 12)] * 2, data_samples=samples)
    with (
        pytest.raises(
            InputError, match=r'another size than its image .*\. b\.png \(4x6; its image 6x4, '
        ),
        explain_data_errors(SimpleNamespace(model=model)),
    ):
        run(dict(inputs=[torch.zeros(3, 5, 5)], data_samples=samples[:1]))


@pytest.mark.parametrize('shape', [(1, 2, 2, 3), (2, 2, 3)])  # the second is mmseg's
def test_a_label_map_in_colour_is_named(shape: tuple[int, ...]) -> None:
    def run_iter(data_batch: dict) -> None:
        raise RuntimeError('stack expects each tensor to be equal size, but got [1]')

    sample = BaseDataElement(metainfo=dict(seg_map_path='a.png'))
    sample.gt_sem_seg = SimpleNamespace(data=torch.zeros(shape))
    model = nn.Module()
    model.decode_head = SimpleNamespace(num_classes=2, ignore_index=255)
    with (
        pytest.raises(
            InputError,
            match=r'^label maps are in colour .*a\.png \(in colour; one number for each pixel',
        ),
        explain_data_errors(SimpleNamespace(model=model)),
    ):
        run_iter(dict(inputs=[torch.zeros(3, 2, 2)], data_samples=[sample]))


def test_other_errors_of_a_step_are_as_they_were() -> None:
    error = RuntimeError('mat1 and mat2 shapes cannot be multiplied')
    with pytest.raises(RuntimeError) as caught, explain_data_errors(SimpleNamespace()):
        raise error
    assert caught.value is error
    # and without a batch nobody can be named
    with (
        pytest.raises(InputError, match=r'Images of the batch: unknown'),
        explain_data_errors(SimpleNamespace(model=nn.Identity())),
    ):
        raise RuntimeError('stack expects each tensor to be equal size, but got [1]')


def test_a_batch_norm_of_one_number_is_explained() -> None:
    with (
        pytest.raises(InputError, match=r'size torch.Size\(\[1, 4, 1, 1\]\).*batch_size=2 or more'),
        explain_data_errors(SimpleNamespace(model=nn.Identity())),
    ):
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))


def test_a_data_set_of_which_nothing_is_left_is_explained() -> None:
    from mmdet.datasets import CocoDataset

    class Empty(CocoDataset):
        def load_data_list(self) -> list:
            return []

    with (
        pytest.raises(InputError, match='no image of a data set is left'),
        explain_data_errors(SimpleNamespace()),
    ):
        Empty(ann_file='a.json')


class LabelMaps(Images):
    """Whose label maps mmseg reads."""

    def get_data_info(self, index: int) -> dict:
        return dict(
            img_path=str(self.paths[index]),
            seg_map_path=str(self.paths[index].with_suffix('.png')),
            reduce_zero_label=False,
            seg_fields=[],
        )

    def __getitem__(self, index: int) -> np.ndarray:
        return LoadAnnotations()(self.get_data_info(index))['gt_seg_map']


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('damage', [lambda content: content[:60], lambda _: b'', lambda _: b'text'])
def test_a_damaged_label_map_is_named(
    damage: Callable[[bytes], bytes], workers: int, folder: Path
) -> None:
    for name in 'abc':
        cv2.imwrite(str(folder / f'{name}.png'), np.eye(64, dtype=np.uint8))
    dataset = LabelMaps(folder)
    read_all(dataset, workers)
    broken = folder / 'b.png'
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(
        InputError, match=r'label map .*b\.png is damaged, cut short or no image: Pillow'
    ):
        read_all(dataset, workers)


def test_an_error_of_the_system_is_as_it_was(folder: Path) -> None:
    error = OSError(5, 'Input/output error')
    with pytest.raises(OSError, match='Input/output') as caught, explain_data_errors(None):
        raise error
    assert caught.value is error
