from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from mmrest.engine.pictures import DrawPredictionsHook, SaveLabelMapsHook
from mmrest.errors import InputError
from tests.engine.test_file_plan import images


class Files:
    """A data set of image files, as a runner has it."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def get_data_info(self, index: int) -> dict:
        return dict(img_path=self.files[index])


class Recorder:
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: object,
        out_file: str,
        pred_score_thr: float,
    ) -> None:
        Path(out_file).write_bytes(pickle.dumps((name, image.shape, pred_score_thr)))


def runner_of(files: list[str]) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=Files(files))
    return SimpleNamespace(test_dataloader=loader, visualizer=Recorder())


def sample_of(file: str, **more: object) -> BaseDataElement:
    return BaseDataElement(metainfo=dict(img_path=file, **more))


def test_a_picture_for_every_image(tmp_path: Path) -> None:
    files = images(tmp_path / 'data', *(f'video{i}/0001.jpg' for i in range(6)))
    runner = runner_of(files)
    hook = DrawPredictionsHook(str(tmp_path / 'out'), score_thr=0.7)
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, outputs=[sample_of(file) for file in files])
    written = sorted((tmp_path / 'out').rglob('*.jpg'))
    assert len(written) == 6
    assert pickle.loads(written[0].read_bytes()) == ('0001.jpg', (4, 5, 3), 0.7)
    with pytest.raises(InputError, match='exists; name another folder'):
        DrawPredictionsHook(str(tmp_path / 'out')).before_test(runner)


@pytest.mark.parametrize('size', [(1, 1), (1, 3), (4, 5)])
def test_label_maps_of_any_size_are_drawn(size: tuple[int, int], tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    file = str(tmp_path / 'image.png')
    cv2.imwrite(file, np.zeros((*size, 3), np.uint8))
    meta = dict(classes=('red', 'green'), palette=[[255, 0, 0], [0, 255, 0]])
    visualizer = SegLocalVisualizer(alpha=1)
    visualizer.dataset_meta = meta
    sample = SegDataSample(metainfo=dict(img_path=file))
    sample.pred_sem_seg = PixelData(data=torch.ones(1, *size, dtype=torch.long))
    hook = DrawPredictionsHook(str(tmp_path / 'out'))
    hook.write(SimpleNamespace(visualizer=visualizer), sample, tmp_path / 'drawn.png')
    drawn = cv2.imread(str(tmp_path / 'drawn.png'))
    assert drawn.shape == (*size, 3)
    assert isinstance(sample.pred_sem_seg.data, torch.Tensor)  # metrics read it


@pytest.mark.parametrize(('reduce_zero_label', 'expected'), [(False, [0, 2, 1]), (True, [1, 3, 2])])
def test_label_maps_are_those_of_the_data_set(
    reduce_zero_label: bool, expected: list[int], tmp_path: Path
) -> None:
    files = images(tmp_path / 'data', 'a/1.jpg', 'b/1.jpg')
    runner = runner_of(files)
    hook = SaveLabelMapsHook(str(tmp_path / 'out'))
    hook.before_test(runner)
    for file in files:
        sample = sample_of(file, reduce_zero_label=reduce_zero_label)
        sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 2, 1]]]))
        hook.after_test_iter(runner, 0, outputs=[sample])
    for name in ('a/1.png', 'b/1.png'):
        labels = cv2.imread(str(tmp_path / 'out' / name), cv2.IMREAD_UNCHANGED)
        assert labels.tolist() == [expected]


def test_a_label_map_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    sample = SimpleNamespace(
        pred_sem_seg=PixelData(data=torch.zeros(1, 2, 2)), get=lambda name, default: default
    )
    with pytest.raises(InputError, match=r'absent.a\.png cannot be written'):
        SaveLabelMapsHook(str(tmp_path)).write(None, sample, tmp_path / 'absent/a.png')
