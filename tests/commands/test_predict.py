from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmrest.commands.predict import (
    _predict,
    features_folder,
    plan_pictures,
    predict,
    require_no_features,
)
from mmrest.errors import InputError
from mmrest.tools.predict import parse_args


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = [tmp_path / 'a/x.jpg', tmp_path / 'b/x.jpg', tmp_path / 'b/y.png']
    for file in files:
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'b/notes.txt').write_text('text')
    return files


def test_images_of_one_name_get_their_own_pictures(images: list[Path], tmp_path: Path) -> None:
    out = str(tmp_path / 'out')
    plan = plan_pictures([str(images[0]), str(images[1].parent), str(images[0])], out)
    assert list(plan) == images
    assert [p.name for p in plan.values()] == ['x.jpg', 'x-2.jpg', 'y.png']


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'x.png')
    with pytest.raises(InputError, match=r'x\.png is no image'):
        plan_pictures([str(tmp_path / 'x.png')], str(tmp_path / 'out'))


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("can't allocate memory")])
def test_an_image_that_takes_too_much_memory_costs_no_other(
    error: Exception, images: list[Path], tmp_path: Path
) -> None:
    def infer(image: str, **_: object) -> dict:
        if image == str(images[0]):
            raise error
        return dict(visualization=[np.zeros((4, 4, 3), np.uint8)])

    plan = {image: tmp_path / f'out/{number}.png' for number, image in enumerate(images[:2])}
    problem, drawn = _predict(infer, plan, {}, None)
    assert 'x.jpg needs more memory than there is' in str(problem)
    assert drawn == plan[images[1]]


def test_bad_images_are_named_before_anything_starts(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'z\.jpg does not exist'):
        plan_pictures([str(images[0]), str(tmp_path / 'z.jpg')], 'out')
    with pytest.raises(InputError, match=r'notes\.txt is no image'):
        plan_pictures([str(tmp_path / 'b/notes.txt')], 'out')


def test_folders_within_a_folder_are_told(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images[0].parent
    plan_pictures([str(folder)], tmp_path / 'out')
    assert not capsys.readouterr().err
    (folder / 'within').mkdir()
    plan_pictures([str(folder)], tmp_path / 'other')
    assert capsys.readouterr().err == f'warning: folders within {folder} are not looked into\n'


def test_pictures_overwrite_nothing(images: list[Path]) -> None:
    with pytest.raises(InputError, match='would overwrite'):
        plan_pictures([str(images[0])], str(images[0].parent), replace=True)
    other = str(images[1].parent)
    with pytest.raises(InputError, match=r'x\.jpg exists; --force replaces it'):
        plan_pictures([str(images[0])], other)
    assert list(plan_pictures([str(images[0])], other, replace=True)) == images[:1]
    with pytest.raises(InputError, match='is a file, not a folder'):
        plan_pictures([str(images[0])], str(images[1]))


def test_pictures_are_written_in_a_format_for_colour(images: list[Path], tmp_path: Path) -> None:
    image = images[0].with_suffix('.pgm')
    cv2.imwrite(str(image), np.zeros((4, 4), np.uint8))
    plan = plan_pictures([str(image)], str(tmp_path / 'out'))
    assert [picture.name for picture in plan.values()] == ['x.png']


def test_a_damaged_image_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / 'images'
    folder.mkdir()
    cv2.imwrite(str(folder / 'good.jpg'), np.zeros((4, 4, 3), np.uint8))
    (folder / 'empty.jpg').touch()
    (folder / 'text.png').write_text('text')
    (folder / 'notes.txt').write_text('text')
    planned = plan_pictures([str(folder)], str(tmp_path / 'out'))
    assert [file.name for file in planned] == ['empty.jpg', 'good.jpg', 'text.png']
    with pytest.raises(InputError, match=r'empty\.jpg is no image'):
        plan_pictures([str(folder / 'empty.jpg')], str(tmp_path / 'out'))


@pytest.mark.parametrize('score', ['-0.1', '30'])
def test_a_threshold_is_a_score(
    score: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ['predict', 'config.py', 'a.pth', 'a.jpg', '--out-dir', 'out', f'--score-thr={score}']
    monkeypatch.setattr('sys.argv', command)
    with pytest.raises(SystemExit, match='2'):
        parse_args()
    assert f'{score} is no score; scores go from 0 to 1' in capsys.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        cv2.error('OpenCV: resize: inv_scale_x > 0'),
        IndexError('no such label'),
        ValueError('empty'),
        AssertionError('The length of classes should be equal to num_classes'),
    ],
)
def test_one_strange_image_costs_the_others_nothing(
    error: Exception, images: list[Path], tmp_path: Path
) -> None:
    def infer(image: str, **options: object) -> dict[str, list[np.ndarray]]:
        assert options == dict(return_vis=True, pred_score_thr=0.5)
        if image == str(strange):
            raise error
        return dict(visualization=[np.full((4, 4, 3), (255, 0, 0), np.uint8)])  # RGB

    strange, other, _ = images
    plan = {strange: tmp_path / 'out/strange.png', other: tmp_path / 'out/other.png'}
    problem, drawn = _predict(infer, plan, dict(pred_score_thr=0.5), None)
    assert isinstance(problem, InputError)
    assert str(problem).startswith(str(strange))
    assert not plan[strange].exists()
    assert drawn == plan[other]
    assert cv2.imread(str(drawn))[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ('options', 'device', 'said'),
    [
        ({}, 'cuda:99', '--device cuda:99 is not there'),
        (
            dict(default_scope='mmpretrain'),
            None,
            r"library is 'mmpretrain'; predicting knows",
        ),
        (dict(test_dataloader=None), None, r'has no test_dataloader\.dataset\.pipeline'),
        (dict(model=None), None, 'describes no model'),
    ],
)
def test_what_cannot_predict_is_named(options: dict, device: str | None, said: str) -> None:
    pipeline = [dict(type='LoadImageFromFile')]
    whole = dict(
        default_scope='mmdet', model={}, test_dataloader=dict(dataset=dict(pipeline=pipeline))
    )
    with pytest.raises(InputError, match=said):
        next(predict(Config({**whole, **options}), 'a.pth', {}, device=device))


def test_pictures_of_features_are_not_replaced(tmp_path: Path) -> None:
    pictures = [tmp_path / 'a.jpg', tmp_path / 'b.jpg']
    require_no_features(pictures, replace=False)
    features_folder(pictures[1]).mkdir()
    require_no_features(pictures, replace=True)
    with pytest.raises(InputError, match=r'b\.jpg_features exists; --force'):
        require_no_features(pictures, replace=False)


def test_a_point_without_pictures_of_features_is_told(
    run_tool: Callable[..., subprocess.CompletedProcess], images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / 'a.pth').write_bytes(b'')
    words = ['retinanet_rest_lite_shapes', 'a.pth', images[0], '--out-dir', 'out']
    result = run_tool('predict.py', *words, '--point', '0,1', cwd=tmp_path)
    assert 'error: --point is of --features' in result.stderr
    assert not (tmp_path / 'out').exists()
