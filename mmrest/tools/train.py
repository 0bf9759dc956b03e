"""Train a detector or segmentor: ``python tools/train.py CONFIG``."""

import argparse

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmrest.commands import prepare_data, require_usable_data
from mmrest.commands.cli import (
    add_config_arguments,
    add_launch_arguments,
    build_runner,
    config_from_arguments,
    leave_process_group,
    require_accelerator_for_amp,
    require_files,
    run_training,
    use_amp,
)
from mmrest.commands.pretraining import forget_weights, require_weights, train_from_scratch
from mmrest.errors import InputError, clear_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector or segmentor.')
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
            if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
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
        purpose = _purpose(cfg)
        if purpose == 'resume':
            forget_weights(cfg)
        require_weights(cfg)
        require_files(cfg, trains=True)
        splits = ['train', 'val'] if cfg.get('val_cfg') else ['train']
        prepare_data(cfg, splits)
        require_usable_data(cfg, splits)
        run_training(build_runner(cfg, purpose))
        leave_process_group()


def _purpose(cfg: Config) -> str:
    """What a checkpoint is for: to go on, or to start from."""
    if cfg.get('resume') and (cfg.get('load_from') or find_latest_checkpoint(cfg.work_dir)):
        return 'resume'
    return 'start'


if __name__ == '__main__':
    main()
