"""Every command with mmengine's pure Python configs, in which types are classes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from tests.conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess]
CONFIGS = {
    'detector': ('epoch_1.pth', 'coco/bbox_mAP'),
    'segmentor': ('iter_2.pth', 'mIoU'),
}


@pytest.fixture
def folder(tmp_path: Path, shapes_root: Path) -> Path:
    """A user's folder with the configs and the data."""
    for kind in CONFIGS:
        shutil.copy(Path(__file__).with_name(f'pure_{kind}.py'), tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/shapes').symlink_to(shapes_root)
    return tmp_path


@pytest.mark.parametrize(
    ('kind', 'processes'),
    [
        ('detector', 1),
        pytest.param('segmentor', 1, marks=pytest.mark.slow),
        pytest.param('detector', 2, marks=pytest.mark.slow),
        pytest.param('segmentor', 2, marks=pytest.mark.slow),
    ],
)
def test_every_command(
    kind: str, processes: int, folder: Path, run_tool: Run, shapes_root: Path
) -> None:
    name, metric = CONFIGS[kind]
    config, checkpoint = f'pure_{kind}.py', f'work/{name}'
    # several build a model wrapper each
    launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command = [*launch, str(ROOT / 'tools/train.py'), config, '--launcher', 'pytorch']
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    environment['PYTHONPATH'] = str(ROOT)
    if processes == 1:
        trained = run_tool('train.py', config, '--work-dir', 'work', cwd=folder)
    else:
        trained = subprocess.run(
            [sys.executable, *command, '--work-dir', 'work'],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert metric in trained.stdout + trained.stderr
    (folder / 'data/shapes').rename(folder / 'moved')
    show = [
        '--data-root',
        'moved',
        '--show-dir',
        'vis',
        '--out',
        'out.pkl' if kind == 'detector' else 'maps',
    ]
    data = ['--data-root', 'moved']
    for options in (show, ['--tta', *data], ['--resolutions', '64', *data]):
        tested = run_tool(
            'test.py', config, checkpoint, '--work-dir', f'test{options[0]}', *options, cwd=folder
        )
        assert tested.returncode == 0, tested.stderr[-3000:]
        assert metric in tested.stdout + tested.stderr
    assert len(list((folder / 'vis').rglob('*.jpg'))) == 4
    assert (folder / 'out.pkl').exists() or len(list((folder / 'maps').rglob('*.png'))) == 4
    image = str(next((shapes_root / 'val2017').glob('*.jpg')))
    drawn = run_tool('predict.py', config, checkpoint, image, '--out-dir', 'drawn', cwd=folder)
    assert drawn.returncode == 0, drawn.stderr[-3000:]
    (picture,) = (folder / 'drawn').iterdir()
    assert cv2.imread(str(picture)).shape == cv2.imread(image).shape
