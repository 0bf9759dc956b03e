"""Does training at several resolutions help at others? On the built-in shapes, on two cores.

RetinaNet and UPerNet with small ResT, ResFormer and Swin backbones, each trained from random
weights at one resolution, at several, and at several with scale consistency, with three seeds; then
tested from 0.4 to 2.5 times the training resolution.

    python docs/scripts/resolution_experiment.py    # 54 runs, two at a time; resumes
    python docs/scripts/write_resolution.py         # docs/resolution/results.md from what there is
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from mmengine.config import Config

from mmrest.commands import load_config, prepare_data
from mmrest.commands.cli import build_runner
from mmrest.errors import InputError, clear_errors
from mmrest.multires.report import Report
from mmrest.multires.sweep import Resolution, measure_at

ROOT = Path(__file__).resolve().parents[2]
TRAINING_RESOLUTION = 96
TEST_RESOLUTIONS = (38, 51, 68, 96, 136, 181, 240)
BATCH_SIZE = 4
ITERATIONS = 1000
BASES = {'detection': 'retinanet_rest_lite_shapes', 'segmentation': 'upernet_rest_lite_shapes'}
TRAININGS = {
    'single': None,
    'multi': dict(scales=(1.0, 0.71, 0.57)),
    'multi + consistency': dict(scales=(1.0, 0.71, 0.57), consistency={}),
}
_NO_DROP = dict(drop_path_rate=0.0)
# backbone and the channels of its maps at the strides 4, 8, 16 and 32
BACKBONES = {
    'ResT': (
        dict(
            type='ResT',
            arch=dict(
                embed_dims=(32, 64, 128, 256),
                depths=(1, 1, 2, 1),
                num_heads=(1, 2, 4, 8),
                sr_ratios=(8, 4, 2, 1),
                mlp_ratios=(4, 4, 4, 4),
            ),
            **_NO_DROP,
        ),
        (32, 64, 128, 256),
    ),
    'ResFormer': (
        dict(
            type='ResFormer',
            arch=dict(embed_dims=128, depth=4, num_heads=4, mlp_ratio=4),
            pyramid='simple',
            **_NO_DROP,
        ),
        (128, 128, 128, 128),
    ),
    'Swin': (
        dict(
            type='mmdet.SwinTransformer',
            embed_dims=32,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 4, 8),
            window_size=7,
            **_NO_DROP,
        ),
        (32, 64, 128, 256),
    ),
}


def make_config(task: str, backbone: str, training: str, seed: int, folder: Path) -> Config:
    """Of one run."""
    cfg = load_config(str(ROOT / f'configs/{BASES[task]}.py'), work_dir=str(folder))
    made, channels = BACKBONES[backbone]
    detects = task == 'detection'
    made = dict(made, out_indices=(1, 2, 3) if detects else (0, 1, 2, 3))
    cfg.model.backbone = made
    size = (192, TRAINING_RESOLUTION)
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[2] = dict(type='Resize', scale=size, keep_ratio=True)
    cfg.test_dataloader.dataset.pipeline[1].scale = size
    if detects:
        cfg.model.neck.update(in_channels=list(channels[1:]), out_channels=48)
        cfg.model.bbox_head.update(in_channels=48, feat_channels=48, stacked_convs=1)
    else:
        pipeline[3].crop_size = (TRAINING_RESOLUTION, 112)
        cfg.model.data_preprocessor.size = pipeline[3].crop_size
        cfg.model.decode_head.update(in_channels=list(channels), channels=48)
        cfg.model.auxiliary_head = None
    if TRAININGS[training]:
        cfg.model = dict(type='MultiResolution', model=cfg.model, **TRAININGS[training])
        if 'consistency' in cfg.model:
            # the paper's, where there is a class token
            target = 'cls' if backbone == 'ResFormer' else 'gap'
            cfg.model.consistency = dict(target=target)
    cfg.train_dataloader.batch_size = BATCH_SIZE
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=ITERATIONS, val_interval=10 * ITERATIONS
    )
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=ITERATIONS),
    ]
    cfg.optim_wrapper.optimizer.lr = 1e-3
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', interval=ITERATIONS, by_epoch=False, save_optimizer=False
    )
    cfg.randomness = dict(seed=seed)
    return cfg


def run(task: str, backbone: str, training: str, seed: int, folder: Path) -> None:
    """Train and test, in this process; what is there is not done again."""
    torch.set_num_threads(1)
    cfg = make_config(task, backbone, training, seed, folder)
    prepare_data(cfg, ['train', 'test'])
    checkpoint = folder / f'iter_{ITERATIONS}.pth'
    # is written last, and so tells that the checkpoint is whole
    seconds = folder / 'seconds'
    if not seconds.exists():
        start = time.perf_counter()
        build_runner(cfg).train()
        seconds.write_text(f'{time.perf_counter() - start:.1f}')
    cfg = make_config(task, backbone, training, seed, folder)
    cfg.load_from = str(checkpoint)
    report = Report(str(folder), cfg, cfg.load_from, TRAINING_RESOLUTION)
    for side in TEST_RESOLUTIONS:
        report.add(measure_at(cfg, Resolution(side)))


def run_all(out: Path, jobs: int, seeds: int) -> None:
    """Every run in a process of its own with one thread."""
    wanted = list(itertools.product(range(seeds), BASES, TRAININGS, BACKBONES))
    prepare_data(make_config('detection', 'ResT', 'single', 0, out), ['train', 'test'])
    start = time.perf_counter()

    def start_run(job: tuple[int, str, str, str]) -> str | None:
        seed, task, training, backbone = job
        folder = folder_of(out, task, backbone, training, seed)
        if not (folder / 'done').exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, '--only', task, backbone, training, str(seed)]
            with open(folder / 'output', 'w') as output:
                ended = subprocess.run(
                    [*command, '--out', str(out)],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'},
                )
            if ended.returncode:
                return f'{folder.name} failed, see {folder}/output'
            (folder / 'done').touch()
        print(f'{time.perf_counter() - start:6.0f} s  {folder.name}', flush=True)
        return None

    with ThreadPoolExecutor(jobs) as pool:
        failures = [failure for failure in pool.map(start_run, wanted) if failure]
    if failures:
        raise InputError('\n'.join(failures))


def folder_of(out: Path, task: str, backbone: str, training: str, seed: int | str) -> Path:
    """Of a run's files."""
    return out / f'{task}_{backbone}_{training}_{seed}'.replace(' ', '').replace('+', '_with_')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs/resolution_experiment')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time, of one thread each')
    parser.add_argument('--seeds', type=int, default=3, help='of each training')
    parser.add_argument('--only', nargs=4, metavar=('TASK', 'BACKBONE', 'TRAINING', 'SEED'))
    args = parser.parse_args()
    with clear_errors():
        if args.only:
            task, backbone, training, seed = args.only
            folder = folder_of(args.out, task, backbone, training, int(seed))
            run(task, backbone, training, int(seed), folder)
            return
        run_all(args.out, args.jobs, args.seeds)


if __name__ == '__main__':
    main()
