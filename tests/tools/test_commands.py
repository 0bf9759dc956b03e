"""The command lines as a user runs them: train, kill, resume, test, predict, convert."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrest.checkpoints import read_checkpoint
from tests import forked
from tests.conftest import ROOT
from tests.two_processes import free_port

DETECTOR = 'configs/retinanet_rest_lite_shapes.py'
# a hardly trained detector is sure of nothing, and no detections give no metric
SMALL_DATA = [
    'built_in_data.num_train=12',
    'built_in_data.num_val=4',
    'model.test_cfg.score_thr=0.0',
]
Run = Callable[..., subprocess.CompletedProcess]

SEGMENTOR = 'configs/upernet_rest_lite_shapes.py'
# each picture at its own size, which is odd as often as not
OWN_SIZE = [f'test_dataloader.dataset.pipeline.1.{o}' for o in ('scale=None', 'scale_factor=1.0')]


def start_training(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, 'tools/train.py', *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, 'training ended before it wrote a checkpoint'
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope='module')
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory of a detector whose training was killed after an epoch and resumed.

    The processes of a parallel run share it.
    """
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    work_dir = folder / 'trained_detector'
    with FileLock(f'{work_dir}.lock'):
        if not (work_dir / 'epoch_4.pth').exists():
            train_and_resume(work_dir, shapes_root)
    return work_dir


def train_and_resume(work_dir: Path, shapes_root: Path) -> None:
    arguments = [DETECTOR, '--data-root', str(shapes_root), '--work-dir', str(work_dir)]
    options = ['--cfg-options', *SMALL_DATA, 'train_cfg.max_epochs=4', 'train_cfg.val_interval=4']
    process = start_training(*arguments, *options)
    try:
        wait_for(work_dir / 'last_checkpoint', process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (work_dir / 'epoch_4.pth').exists(), 'training ended before it was killed'
    command = [str(ROOT / 'tools/train.py'), *arguments, '--resume', *options]
    resumed = forked.run_script(command, ROOT, os.environ, timeout=300)
    output = resumed.stdout + resumed.stderr
    assert resumed.returncode == 0, output[-3000:]
    assert 'resumed epoch: ' in output
    assert 'Epoch(train)' in output
    assert 'Epoch(train)  [1]' not in output
    assert 'coco/bbox_mAP_50' in output
    assert 'weights_only=False' not in output


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / 'epoch_4.pth'


def test_a_resumed_training_keeps_its_history(checkpoint: Path) -> None:
    restored = read_checkpoint(checkpoint)
    assert restored['meta']['epoch'] == 4
    history, _ = restored['message_hub']['log_scalars']['train/loss'].data
    assert len(history) == 4 * 3  # epochs x batches of four images
    assert restored['optimizer']['state']


def losses_in(work_dir: Path) -> dict[int, float]:
    """Iteration -> loss, of all runs in a work directory."""
    lines = [line for log in work_dir.glob('*/vis_data/scalars.json') for line in log.open()]
    return {row['step']: row['loss'] for row in map(json.loads, lines) if 'loss' in row}


def test_a_resumed_training_goes_on_with_the_seed_that_was_drawn(
    shapes_root: Path, run_tool: Run, tmp_path: Path
) -> None:
    """Most configs name no seed: the images' order must be that of the first run all the same."""
    options = ['--cfg-options', *SMALL_DATA, 'default_hooks.logger.interval=1', 'val_cfg=None']
    options += ['val_dataloader=None', 'val_evaluator=None', 'train_cfg.max_epochs=2']
    options += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    command = ['train.py', DETECTOR, '--data-root', shapes_root, '--work-dir']
    result = run_tool(*command, tmp_path / 'whole', *options)
    assert result.returncode == 0, result.stderr[-2000:]
    whole = losses_in(tmp_path / 'whole')
    (tmp_path / 'resumed').mkdir()
    shutil.copy(tmp_path / 'whole/epoch_1.pth', tmp_path / 'resumed')
    result = run_tool(*command, tmp_path / 'resumed', '--resume', *options, 'randomness.seed=7')
    assert result.returncode == 0, result.stderr[-2000:]
    assert "warning: randomness.seed=7 is not the checkpoint's" in result.stderr
    resumed = losses_in(tmp_path / 'resumed')
    assert resumed == {step: loss for step, loss in whole.items() if step > 3}
    assert len(resumed) == 3


def test_testing_writes_metrics_predictions_and_pictures(
    checkpoint: Path, shapes_root: Path, run_tool: Run, tmp_path: Path
) -> None:
    result = run_tool(
        *('test.py', DETECTOR, checkpoint, '--data-root', shapes_root, '--tta'),
        *('--work-dir', tmp_path, '--out', tmp_path / 'out.pkl', '--show-dir', tmp_path / 'vis'),
        *('--cfg-options', *SMALL_DATA),
    )
    assert result.returncode == 0, result.stderr
    assert 'coco/bbox_mAP_50' in result.stdout + result.stderr
    assert len(list((tmp_path / 'vis').glob('*.jpg'))) == 4
    with open(tmp_path / 'out.pkl', 'rb') as file:
        assert len(pickle.load(file)) == 4


def test_predicting_draws_images_of_any_size(
    checkpoint: Path, run_tool: Run, tmp_path: Path
) -> None:
    images = []
    for height, width in ((1, 1), (37, 211), (100, 64)):
        images.append(tmp_path / f'{height}x{width}.png')
        cv2.imwrite(str(images[-1]), np.random.default_rng(0).integers(0, 255, (height, width, 3)))
    out_dir = tmp_path / 'drawn'
    result = run_tool(
        *('predict.py', DETECTOR, checkpoint, *images, '--out-dir', out_dir, '--device', 'cpu'),
        *('--score-thr', '0.0'),
    )
    assert result.returncode == 0, result.stderr
    for image in images:
        assert cv2.imread(str(out_dir / image.name)) is not None
        assert str(out_dir / image.name) in result.stdout


def test_bad_images_cost_the_others_nothing(
    checkpoint: Path, shapes_root: Path, run_tool: Run, tmp_path: Path
) -> None:
    good = next((shapes_root / 'val2017').glob('*.jpg'))
    bad = [tmp_path / f'{name}.png' for name in ('damaged', 'thin')]
    bad[0].write_bytes(b'\x89PNG\r\n\x1a\n')
    cv2.imwrite(str(bad[1]), np.zeros((3, 2000, 3), np.uint8))
    out_dir = tmp_path / 'drawn'
    result = run_tool('predict.py', DETECTOR, checkpoint, *bad, good, '--out-dir', out_dir)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert f'{bad[0]} cannot be decoded' in result.stderr
    assert f'{bad[1]} is so thin that its shorter side has no pixel' in result.stderr
    assert [path.name for path in out_dir.iterdir()] == [good.name]


def test_converting_keeps_a_checkpoint_usable(
    checkpoint: Path, run_tool: Run, tmp_path: Path, shapes_root: Path
) -> None:
    target = tmp_path / 'detector.safetensors'
    result = run_tool('convert_checkpoint.py', checkpoint, target)
    assert result.returncode == 0, result.stderr
    assert 'ResT lite' in result.stdout
    converted, original = read_checkpoint(target), read_checkpoint(checkpoint)
    for key, value in original['state_dict'].items():
        assert torch.equal(converted['state_dict'][key], value)
    assert converted['meta']['dataset_meta']['classes'][0] == 'disc'
    again = run_tool('convert_checkpoint.py', checkpoint, target)
    assert again.returncode != 0
    assert '--force replaces it' in again.stderr
    image = next((shapes_root / 'val2017').glob('*.jpg'))
    drawn = run_tool('predict.py', DETECTOR, target, image, '--out-dir', tmp_path / 'drawn')
    assert drawn.returncode == 0, drawn.stderr


def test_a_segmentor_goes_the_same_way(shapes_root: Path, run_tool: Run, tmp_path: Path) -> None:
    common = ['--data-root', shapes_root, '--work-dir', tmp_path / 'work']
    data = ['--cfg-options', *SMALL_DATA[:2]]
    schedule = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    schedule.append('default_hooks.checkpoint.interval=2')
    result = run_tool('train.py', SEGMENTOR, *common, *data, *schedule)
    assert result.returncode == 0, result.stderr
    assert 'mIoU' in result.stdout + result.stderr
    checkpoint = tmp_path / 'work/iter_2.pth'
    show = ['--tta', '--show-dir', tmp_path / 'vis', '--out', tmp_path / 'maps']
    result = run_tool('test.py', SEGMENTOR, checkpoint, *common, *show, *data)
    assert result.returncode == 0, result.stderr
    assert 'mIoU' in result.stdout + result.stderr
    assert len(list((tmp_path / 'maps').glob('*.png'))) == 4
    assert len(list((tmp_path / 'vis').glob('*.jpg'))) == 4
    slide = [f'model.test_cfg.{o}' for o in ('mode=slide', 'crop_size=(48,64)', 'stride=(31,47)')]
    for options in (OWN_SIZE, [*OWN_SIZE, *slide]):
        result = run_tool('test.py', SEGMENTOR, checkpoint, *common, *data, *options)
        assert result.returncode == 0, result.stderr
        assert 'mIoU' in result.stdout + result.stderr
    images = sorted((shapes_root / 'val2017').glob('*.jpg'))[:2]
    out_dir = tmp_path / 'drawn'
    result = run_tool('predict.py', SEGMENTOR, checkpoint, *images, '--out-dir', out_dir)
    assert result.returncode == 0, result.stderr
    for image in images:
        assert cv2.imread(str(out_dir / image.name)).shape == cv2.imread(str(image)).shape


@pytest.mark.slow
@pytest.mark.parametrize('machines', [1, 2])
def test_two_processes_train_on_the_cpu(machines: int, tmp_path: Path) -> None:
    """By torchrun, as documented: on one machine, or as if each were on a machine of its own."""
    several = ['--nnodes', '2', '--nproc_per_node', '1', '--master_addr', 'localhost']
    several += ['--master_port', free_port(), '--node_rank']
    # both also find that the data set is not there yet
    command = ['tools/train.py', DETECTOR, '--launcher', 'pytorch']
    command += ['--data-root', str(tmp_path / 'shapes'), '--work-dir', str(tmp_path / 'work')]
    command += ['--cfg-options', *SMALL_DATA, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}

    def launch(rank: int) -> subprocess.CompletedProcess:
        options = (
            ['--standalone', '--nproc_per_node', '2'] if machines == 1 else [*several, str(rank)]
        )
        return subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', *options, *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=500,
        )

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(launch, range(machines)))
    for result in results:
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    first = results[0].stdout + results[0].stderr
    assert 'coco/bbox_mAP_50' in first
    assert machines == 1 or 'coco/bbox_mAP_50' not in results[1].stdout + results[1].stderr
    # 12 images, 4 a batch, 2 processes
    trained = read_checkpoint(tmp_path / 'work/epoch_1.pth')
    assert len(trained['optimizer']['state']) > 0
    assert len(trained['message_hub']['log_scalars']['train/loss'].data[0]) == 2


# runs a tool as one of several processes would, and prints the names of the threads that it leaves
LIST_THREADS = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
print('left:', *(task.joinpath('comm').read_text() for task in Path('/proc/self/task').iterdir()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone lists native threads')
@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_no_thread_of_a_process_group_outlives_a_run(
    tool: str, checkpoint: Path, shapes_root: Path, tmp_path: Path
) -> None:
    arguments = [f'tools/{tool}', DETECTOR, *([str(checkpoint)] if tool == 'test.py' else [])]
    arguments += ['--launcher', 'pytorch', '--data-root', str(shapes_root)]
    arguments += ['--work-dir', str(tmp_path), '--cfg-options', *SMALL_DATA]
    if tool == 'train.py':
        arguments += ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    group = dict(MASTER_ADDR='localhost', MASTER_PORT=free_port(), RANK='0', WORLD_SIZE='1')
    result = subprocess.run(
        [sys.executable, '-c', LIST_THREADS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **group, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'gloo' not in result.stdout.rpartition('left:')[2]


def test_the_layout_of_a_checkpoint_changes_no_result(
    checkpoint: Path, shapes_root: Path, run_tool: Run, tmp_path: Path
) -> None:
    state = read_checkpoint(checkpoint)['state_dict']
    compiled = {f'module._orig_mod.{key}': value for key, value in state.items()}
    results = []
    for name, content in dict(plain={'state_dict': state}, model={'model': compiled}).items():
        torch.save(content, tmp_path / f'{name}.pth')
        data = ['--data-root', shapes_root, '--work-dir', tmp_path / name]
        options = ['--out', tmp_path / f'{name}.pkl', '--cfg-options', *SMALL_DATA]
        result = run_tool('test.py', DETECTOR, tmp_path / f'{name}.pth', *data, *options)
        assert result.returncode == 0, result.stderr
        with open(tmp_path / f'{name}.pkl', 'rb') as file:
            results.append([sample['pred_instances']['scores'] for sample in pickle.load(file)])
    for plain, other in zip(*results, strict=True):
        assert len(plain) > 0
        assert torch.equal(plain, other)


def test_masks_are_merged_over_views(shapes_root: Path, run_tool: Run, tmp_path: Path) -> None:
    config = 'configs/mask_rcnn_rest_lite_shapes.py'
    cfg = Config.fromfile(ROOT / config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'new.pth')
    data = ['--data-root', shapes_root, '--work-dir', tmp_path / 'work']
    options = ['built_in_data.num_train=12', 'built_in_data.num_val=4']
    options.append('model.test_cfg.rcnn.score_thr=0.0')
    result = run_tool(
        'test.py', config, tmp_path / 'new.pth', *data, '--tta', '--cfg-options', *options
    )
    assert result.returncode == 0, result.stderr
    assert 'coco/segm_mAP' in result.stdout + result.stderr


def test_pictures_never_replace_the_images(
    checkpoint: Path, shapes_root: Path, run_tool: Run, tmp_path: Path
) -> None:
    images = {file: file.read_bytes() for file in (shapes_root / 'val2017').iterdir()}
    result = run_tool(
        *('test.py', DETECTOR, checkpoint, '--data-root', shapes_root, '--work-dir', tmp_path),
        *('--show-dir', shapes_root / 'val2017', '--cfg-options', *SMALL_DATA),
    )
    assert result.returncode == 1
    assert 'would overwrite the image' in result.stderr
    assert {file: file.read_bytes() for file in (shapes_root / 'val2017').iterdir()} == images


COCO = 'configs/retinanet_rest_small_coco.py'
# {trained} has been trained with other settings than those that are given here
LITTLE_DATA = ['--data-root', '{shapes}', '--resume', '{trained}', '--cfg-options', *SMALL_DATA]


@pytest.mark.parametrize(
    ('arguments', 'messages'),
    [
        (
            ['train.py', COCO, '--from-scratch', '--data-root', '{tmp}/empty'],
            ['PROBLEM: missing', 'cocodataset.org'],
        ),
        (
            ['train.py', COCO, '--data-root', '{tmp}/empty'],
            ['rest_small is not here', '--from-scratch'],
        ),
        (['train.py', COCO, '--data-root', '{tmp}/nowhere'], ['is no folder']),
        (['train.py', 'configs/retinanet_rest_small_coc.py'], ['did you mean']),
        (['train.py', COCO, '--amp'], ['needs a GPU']),
        (['train.py', COCO, '--resume', '{tmp}/gone.pth'], ['gone.pth does not exist']),
        (
            [
                *('train.py', COCO, '--cfg-options', 'model.backbone.init_cfg.type=Pretrained'),
                'model.backbone.init_cfg.checkpoint={tmp}/gone.pth',
            ],
            ['gone.pth does not exist'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA, 'model.backbone.arch=small'],
            ['does not fit the RetinaNet of the config', 'missing: backbone.stages.2.blocks.2'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA, 'model.backbone.frozen_stages=1'],
            ['cannot be resumed: it trained', '--from-scratch freezes nothing'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA[:3], '{tmp}/weights.pth', *LITTLE_DATA[4:]],
            ['is not from a training that can be resumed'],
        ),
        (
            [
                'train.py',
                DETECTOR,
                *LITTLE_DATA[:2],
                '--cfg-options',
                'load_from={tmp}/weights.pth',
                *SMALL_DATA,
            ],
            ['does not fit the RetinaNet of the config'],
        ),
        (['train.py', 'README.md'], ['is no config']),
        (['train.py', 'configs/_base_/det_runtime.py', '--amp'], ['--amp', 'describes no model']),
        (
            ['test.py', 'configs/_base_/det_runtime.py', '{trained}', '--out', '{tmp}/o.pkl'],
            ['--out', 'describes no model'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA, 'model.bbox_head.num_classes=3'],
            ['5 classes (disc, ring', 'set num_classes=5'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA, 'optim_wrapper.optimizer.learning_rate=1'],
            ["AdamW an argument 'learning_rate'"],
        ),
        (['train.py', 'configs/_base_/det_runtime.py'], ['describes no model']),
        (['test.py', COCO, '{tmp}/gone.pth'], ['gone.pth does not exist']),
        (['test.py', COCO, '{trained}'], ['PROBLEM: missing']),
        (
            ['predict.py', COCO, '{trained}', '{tmp}/gone.jpg', '--out-dir', '{tmp}'],
            ['gone.jpg does not exist'],
        ),
        (
            ['predict.py', COCO, '{trained}', '{image}', '--out-dir', '{tmp}'],
            ['does not fit the RetinaNet of the config', 'stages.2.blocks.2'],
        ),
        (
            ['train.py', DETECTOR, *LITTLE_DATA, 'train_dataloader.num_workers=-1'],
            ['train_dataloader: num_workers=-1 must be a whole number of 0 or more'],
        ),
        (['convert_checkpoint.py', '{tmp}/gone.pth', '{tmp}/a.safetensors'], ['is not there']),
        (['convert_checkpoint.py', '{trained}', '{tmp}/a.pth'], ['should end with .safetensors']),
        (
            ['convert_checkpoint.py', '{trained}', '{tmp}/none/a.safetensors'],
            ['there is no folder'],
        ),
        (
            [
                *('train.py', DETECTOR, *LITTLE_DATA[:2], '--auto-scale-lr', '--cfg-options'),
                *('auto_scale_lr=None', *SMALL_DATA),
            ],
            ['--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...)'],
        ),
        (['model_complexity.py', '--shapes', '800'], ['write HEIGHTxWIDTH']),
    ],
    ids=lambda value: ' '.join(value)[:60],
)
def test_wrong_input_gets_one_clear_error(
    arguments: list[str],
    messages: list[str],
    checkpoint: Path,
    shapes_root: Path,
    run_tool: Run,
    tmp_path: Path,
) -> None:
    (tmp_path / 'empty').mkdir()
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'weights.pth')
    image = next((shapes_root / 'val2017').glob('*.jpg'))
    places = dict(tmp=tmp_path, trained=checkpoint, image=image, shapes=shapes_root)
    arguments = [argument.format(**places) for argument in arguments]
    if arguments[0] in ('train.py', 'test.py'):
        arguments += ['--work-dir', f'{tmp_path}_work_dir']
    result = run_tool(*arguments)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert 'error: ' in result.stderr
    for message in messages:
        assert message in result.stderr
    # mmengine's own account of a checkpoint that it loads in part is as long as the model
    assert 'unexpected key in source' not in result.stdout + result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['empty', 'weights.pth']


def test_an_unknown_way_of_attention_is_named_before_anything_is_built(
    run_tool: Callable[..., subprocess.CompletedProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMREST_ATTENTION', 'fastest')
    result = run_tool('train.py', DETECTOR)
    assert result.returncode != 0
    assert "'fastest'" in result.stderr
    assert 'it is one of auto, reference, blockwise, triton' in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('option', ['nonsense', '=1'])
def test_an_option_without_a_value_is_named(option: str, run_tool: Run) -> None:
    result = run_tool('train.py', DETECTOR, '--cfg-options', option)
    assert result.returncode == 2
    assert f'{option}: write KEY=VALUE' in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_config_of_another_encoding_is_named(run_tool: Run, tmp_path: Path) -> None:
    config = tmp_path / 'latin.py'
    config.write_bytes(b'# \xe9\nmodel = dict()\n')
    result = run_tool('train.py', config)
    assert result.returncode == 1
    assert 'is not written in UTF-8' in result.stderr
    assert 'Traceback' not in result.stderr
