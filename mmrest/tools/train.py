"""Train a detector or segmentor: ``python tools/train.py CONFIG``."""

import argparse
import shlex
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmrest.commands import prepare_data, require_usable_data
from mmrest.commands.cli import (
    add_config_arguments,
    add_launch_arguments,
    build_runner,
    config_from_arguments,
    options_given,
    require_accelerator_for_amp,
    require_buildable_model,
    require_files,
    require_run,
    run_training,
    use_amp,
)
from mmrest.commands.output_files import sole_training
from mmrest.commands.pretraining import forget_weights, require_weights, train_from_scratch
from mmrest.commands.processes import is_first_process, leave_process_group, warn
from mmrest.engine.checkpointing import newest_whole_checkpoint
from mmrest.engine.randomness import use_seed_of_checkpoint
from mmrest.errors import ArgumentParser, InputError, Interrupted, clear_errors


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Train a detector or segmentor.')
    parser.add_argument('config', help='a config of mmdet or mmseg, or the name of one of mmrest')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or without one from the latest in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size that the GPUs make together',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='train from random weights: no pretrained checkpoint, and nothing frozen',
    )
    parser.add_argument(
        '--skip-non-finite',
        action='store_true',
        help='leave out steps whose loss is infinite or no number, instead of ending there',
    )
    add_launch_arguments(parser)
    add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = config_from_arguments(args)
        if args.amp:
            use_amp(cfg)
        if args.auto_scale_lr:
            if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
                raise InputError(
                    '--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config'
                )
            cfg.auto_scale_lr.enable = True
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if args.from_scratch:
            train_from_scratch(cfg)
        require_accelerator_for_amp(cfg)
        purpose = 'start'
        if cfg.get('resume') and (cfg.get('load_from') or _find_checkpoint(cfg)):
            purpose = 'resume'
            forget_weights(cfg)
        require_run(cfg, 'train')
        require_weights(cfg)
        require_files(cfg, trains=True)
        require_buildable_model(cfg)
        splits = ['train'] if cfg.get('val_cfg') is None else ['train', 'val']
        prepare_data(cfg, splits)
        require_usable_data(cfg, splits)
        if purpose == 'resume' and (seed := use_seed_of_checkpoint(cfg)) is not None:
            warn(f"randomness.seed={seed} is not the checkpoint's, which the training goes on with")
        with sole_training(cfg.work_dir):
            try:
                run_training(build_runner(cfg, purpose, args.skip_non_finite))
            except Interrupted as interruption:
                raise Interrupted(f'{interruption}{_resuming(args)}', interruption.signal) from None
        leave_process_group()
        if is_first_process() and (last := find_latest_checkpoint(cfg.work_dir)):
            names = shlex.join([args.config, last])
            print(f'next: python -m mmrest test {names}{options_given(args)}')


def _resuming(args: argparse.Namespace) -> str:
    """A line with the command that goes on, where this one needs no more than the option."""
    if args.launcher != 'none' or args.resume not in (None, 'auto'):
        return ''
    program = sys.argv[0] if sys.argv[0].endswith(' train') else f'python {sys.argv[0]}'
    words = [*sys.argv[1:], *([] if args.resume else ['--resume'])]
    return f'\nnext: {program} {shlex.join(words)}'


def _find_checkpoint(cfg: Config) -> str | None:
    """Let a training that is resumed go on from its newest whole checkpoint, which is returned."""
    hooks = cfg.get('default_hooks') or {}
    path, warning = newest_whole_checkpoint(cfg.work_dir, hooks.get('checkpoint') or {})
    if warning:
        warn(warning)
    cfg.load_from = path or find_latest_checkpoint(cfg.work_dir)
    if not path and cfg.load_from and Path(cfg.load_from).is_file():
        warn(f'--resume goes on from {cfg.load_from}, which is not in {cfg.work_dir}')
    if not cfg.load_from:
        earlier = sorted(Path(cfg.work_dir).glob('earlier_*'))
        those = f' (those of an earlier one are in {earlier[-1]}: --resume FILE)' if earlier else ''
        warn(f'--resume: no checkpoint in {cfg.work_dir} yet: the training begins anew{those}')
    return cfg.load_from


if __name__ == '__main__':
    main()
