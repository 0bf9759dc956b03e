"""Train a detector or segmentor: ``python tools/train.py CONFIG``."""

import argparse

from mmrest.engine import prepare_data
from mmrest.engine.cli import (
    add_config_arguments,
    add_launch_arguments,
    build_runner,
    config_from_arguments,
    leave_process_group,
    require_files,
    require_gpu_for_amp,
    require_resumable,
)
from mmrest.errors import InputError, clear_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a detector or segmentor.')
    parser.add_argument('config', help='a config of mmdet or mmseg')
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
    add_launch_arguments(parser)
    add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = config_from_arguments(args)
        if args.amp:
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.loss_scale = 'dynamic'
        if args.auto_scale_lr:
            if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
                raise InputError(
                    '--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config'
                )
            cfg.auto_scale_lr.enable = True
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        require_gpu_for_amp(cfg)
        require_files(cfg)
        prepare_data(cfg, ['train', 'val'] if cfg.get('val_cfg') else ['train'])
        runner = build_runner(cfg)
        require_resumable(runner, cfg)
        runner.train()
        leave_process_group()


if __name__ == '__main__':
    main()
