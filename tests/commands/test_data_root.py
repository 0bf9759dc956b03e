from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.commands import move_data_root
from mmrest.errors import InputError


def config(root: str, ann_file: str, **more: object) -> Config:
    dataset = dict(
        type='CocoDataset',
        data_root=root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val2017/'),
    )
    evaluator = dict(type='CocoMetric', ann_file=ann_file, metric='bbox')
    loader = dict(dataset=dataset)
    return Config(dict(test_dataloader=loader, test_evaluator=evaluator, **more))


SPELLINGS = [
    ('data/coco/', 'data/coco/annotations/val.json'),
    ('data/coco/', './data/coco/annotations/val.json'),
    ('./data/coco', 'data/coco/annotations/val.json'),
    ('data/coco', 'data//coco//annotations/val.json'),
    ('data//coco/', 'data/coco/annotations/val.json'),
    ('data/coco', 'data\\coco\\annotations\\val.json'),
    ('data\\coco\\', 'data/coco/annotations/val.json'),
    ('data/./coco', 'data/x/../coco/annotations/val.json'),
    ('{cwd}/data/coco', 'data/coco/annotations/val.json'),
    ('data/coco', '{cwd}/data/coco/annotations/val.json'),
    ('.', './annotations/val.json'),
    ('{cwd}', 'annotations/val.json'),
    ('s3://bucket/coco/', 's3://bucket//coco/annotations/val.json'),
]


@pytest.mark.parametrize(('root', 'ann_file'), SPELLINGS)
def test_every_spelling_of_a_path_is_moved(
    root: str, ann_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ('annotations', 'data/coco/annotations', 'new'):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / 'val.json').touch()
    cfg = config(root.format(cwd=tmp_path), ann_file.format(cwd=tmp_path))
    move_data_root(cfg, 'new')
    dataset = cfg.test_dataloader.dataset
    assert Path(dataset.data_root) == Path('new')
    assert dataset.ann_file == 'annotations/val.json'
    assert Path(cfg.test_evaluator.ann_file) == Path('new/annotations/val.json')
    assert cfg.test_evaluator.type == 'CocoMetric'


def test_other_folders_stay(tmp_path: Path) -> None:
    cfg = config(
        'data/coco',
        'data/coco2/val.json',
        load_from='data/coco/weights.pth',
        work_dir='data/coco/work',
        model=dict(init_cfg=dict(type='Pretrained', checkpoint='data/coco/rest.pth')),
    )
    move_data_root(cfg, str(tmp_path))
    assert cfg.test_evaluator.ann_file == 'data/coco2/val.json'
    assert cfg.load_from == 'data/coco/weights.pth'
    assert cfg.work_dir == 'data/coco/work'
    assert cfg.model.init_cfg.checkpoint == 'data/coco/rest.pth'


def test_what_would_still_be_read_from_the_old_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/coco').mkdir(parents=True)
    (tmp_path / 'data/coco/val.json').touch()
    (tmp_path / 'link').symlink_to('data/coco')
    (tmp_path / 'new').mkdir()
    with pytest.raises(InputError, match=r"test_evaluator\.ann_file = 'link/val\.json'"):
        move_data_root(config('data/coco', 'link/val.json'), 'new')
    cfg = config('data/coco', 'x', model=dict(bbox_head=dict(frequencies='data/coco/freq.json')))
    with pytest.raises(InputError, match=r'model\.bbox_head\.frequencies'):
        move_data_root(cfg, 'new')


def test_a_folder_inside_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/coco').mkdir(parents=True)
    cfg = config('data/', 'data/annotations/val.json')
    move_data_root(cfg, 'data/coco')
    assert Path(cfg.test_evaluator.ann_file) == Path('data/coco/annotations/val.json')


def test_two_spellings_are_one_root(tmp_path: Path) -> None:
    cfg = config('data/coco', 'data/coco/a.json')
    cfg.val_dataloader = dict(dataset=dict(data_root='./data/coco/', ann_file='a.json'))
    move_data_root(cfg, str(tmp_path))
    assert Path(cfg.val_dataloader.dataset.data_root) == tmp_path
