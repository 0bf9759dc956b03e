"""The commands of the pages about COCO and ADE20K, on a few small pictures in their layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope

from mmrest import ResT, ResTV2, get_config
from mmrest.checkpoints.published import find_published
from tests import forked
from tests.conftest import ROOT, last_checkpoint
from tests.docs.test_commands_in_docs import commands

LOADERS = 'train_dataloader', 'val_dataloader', 'test_dataloader'
EVERYWHERE = [
    option
    for loader in LOADERS
    for option in (
        f'{loader}.dataset.indices=2',
        f'{loader}.num_workers=0',
        f'{loader}.persistent_workers=False',
    )
]
SMALL = [f'{loader}.dataset.pipeline.1.scale=(96,64)' for loader in LOADERS[1:]]
COCO = [
    *EVERYWHERE,
    *SMALL,
    'train_cfg.max_epochs=1',
    'train_dataloader.dataset.pipeline.2.scales=[(96,64)]',
]
ADE20K = [
    *EVERYWHERE,
    *SMALL,
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
    'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
]


@pytest.fixture
def place(shapes_root: Path, tmp_path: Path) -> Path:
    """Data in the layout of both pages, weights under their names, and a street."""
    coco, ade = tmp_path / 'data/coco', tmp_path / 'data/ade/ADEChallengeData2016'
    shutil.copytree(shapes_root, coco, ignore=shutil.ignore_patterns('images'))
    names = CocoDataset.METAINFO['classes']
    for file in (coco / 'annotations').glob('instances_*.json'):
        content = json.loads(file.read_text())
        content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
        file.write_text(json.dumps(content))
    shutil.copytree(shapes_root / 'images', ade / 'images')
    for split in ('training', 'validation'):
        shutil.copytree(shapes_root / 'annotations' / split, ade / 'annotations' / split)
    shutil.copy(next((coco / 'val2017').iterdir()), tmp_path / 'street.jpg')
    (tmp_path / 'weights').mkdir()
    for name, model in (
        ('rest_small', ResT('small', out_norm='none')),
        ('restv2_tiny', ResTV2('tiny')),
    ):
        torch.save(model.state_dict(), tmp_path / 'weights' / find_published(name).file_name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ('page', 'options', 'saved', 'meant'),
    [
        ('coco', COCO, 'epoch_1.pth', 'epoch_12.pth'),
        ('ade20k', ADE20K, 'iter_2.pth', 'iter_160000.pth'),
    ],
)
def test_the_commands_of_a_page_run(
    page: str, options: list[str], saved: str, meant: str, place: Path
) -> None:
    environment = {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'MMREST_WEIGHTS': str(place / 'weights'),
    }
    for words in commands(ROOT / f'docs/{page}.md'):
        assert words[:3] == ['python', '-m', 'mmrest']
        words = [word for word in words[3:] if word != '--amp']  # which needs a GPU
        words += [] if '--cfg-options' in words else ['--cfg-options']
        command = [str(ROOT / 'mmrest/__main__.py'), *words, *options]
        result = forked.run_script(command, place, environment, 600)
        assert result.returncode == 0, f'{words}\n{result.stderr}'
        for file in place.glob(f'work_dirs/*/{saved}'):
            shutil.copy(file, file.with_name(meant))
    assert list((place / 'predictions').iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(('page', 'ran'), [('export', 3), ('multi-resolution', 3)])
def test_the_commands_for_a_trained_model_run(
    page: str, ran: int, shapes_root: Path, tmp_path: Path
) -> None:
    """On random weights; CONFIG and CHECKPOINT are those of a small detector."""
    shutil.copytree(shapes_root, tmp_path / 'data/shapes')
    record = tmp_path / 'data/shapes/shapes.json'  # as if it were the whole data set
    record.write_text(json.dumps(json.loads(record.read_text()) | dict(num_train=800, num_val=80)))
    checkpoints = {}
    for name in ('retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'):
        cfg = get_config(name)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
        checkpoints[name] = tmp_path / f'work_dirs/{name}' / last_checkpoint(cfg)
        checkpoints[name].parent.mkdir(parents=True)
        torch.save({'state_dict': model.state_dict(), 'meta': {}}, checkpoints[name])
    detector = 'retinanet_rest_lite_shapes'
    stand = {'CONFIG': detector, 'CHECKPOINT': str(checkpoints[detector])}
    found = [words for words in commands(ROOT / f'docs/{page}.md') if words[0] == 'python']
    assert len(found) == ran
    for words in found:
        words = [stand.get(word, word) for word in words]
        tool = [ROOT / words[1]] if words[1] != '-m' else [ROOT / 'mmrest/__main__.py', words[3]]
        rest = words[2:] if words[1] != '-m' else words[4:]
        if page == 'multi-resolution' and '--compare' not in rest:
            rest += ['--cfg-options', 'test_dataloader.dataset.indices=1']
        if '--compare' in rest:
            for folder in 'AB':
                (tmp_path / folder).mkdir()
                table = next(tmp_path.rglob('work_dirs/**/resolutions.csv'))
                shutil.copy(table, tmp_path / folder)
        result = forked.run_script(
            [*map(str, tool), *rest], tmp_path, {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, 900
        )
        assert result.returncode == 0, f'{words}\n{result.stderr}'
