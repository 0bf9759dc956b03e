"""Test a detector or segmentor: ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse

from mmrest.checkpoints import require_fit
from mmrest.engine import prepare_data
from mmrest.engine.cli import (
    add_config_arguments,
    add_launch_arguments,
    build_runner,
    config_from_arguments,
    leave_process_group,
    require_files,
)
from mmrest.engine.testing import dump_results, show_results, use_tta
from mmrest.errors import clear_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Test a detector or segmentor.')
    parser.add_argument('config', help='a config of mmdet or mmseg')
    parser.add_argument('checkpoint', help='of the whole model')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl|DIR',
        help='keep the predictions: a pickle of all, or for segmentation a folder of label maps',
    )
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw predictions into DIR (segmentation: into DIR/vis_data/vis_image)',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='of --show, in seconds')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_launch_arguments(parser)
    add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = config_from_arguments(args)
        if args.show or args.show_dir:
            show_results(cfg, args.show_dir, args.show, args.wait_time)
        if args.tta:
            use_tta(cfg)
        if args.out:
            dump_results(cfg, args.out)
        cfg.load_from, cfg.resume = args.checkpoint, False
        require_files(cfg)
        prepare_data(cfg, ['test'])
        runner = build_runner(cfg)
        require_fit(runner.model, args.checkpoint)
        runner.test()
        leave_process_group()


if __name__ == '__main__':
    main()
