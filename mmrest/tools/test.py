"""Test a detector or segmentor: ``python tools/test.py CONFIG CHECKPOINT``.

``--resolutions 400 600 800`` tests the checkpoint at each and tabulates accuracy and speed;
``--compare A.csv B.csv --plot FILE`` draws the tables of several models into one picture.
"""

import argparse

from mmrest.commands import prepare_data, require_usable_data
from mmrest.commands.cli import (
    add_config_arguments,
    add_fuse_argument,
    add_launch_arguments,
    build_runner,
    config_from_arguments,
    require_buildable_model,
    require_files,
    require_run,
    run_test,
)
from mmrest.commands.output_files import require_new_picture
from mmrest.commands.processes import leave_process_group
from mmrest.commands.testing import dump_results, show_results, use_fused_model, use_tta
from mmrest.errors import ArgumentParser, InputError, clear_errors
from mmrest.multires.commands import sweep_resolutions
from mmrest.multires.report import draw
from mmrest.multires.sweep import parse_aspect_ratio


def parse_args(description: str = 'Test a detector or segmentor.') -> argparse.Namespace:
    parser = ArgumentParser(description=description)
    parser.add_argument(
        'config', nargs='?', help='a config of mmdet or mmseg, or the name of one of mmrest'
    )
    parser.add_argument('checkpoint', nargs='?', help='of the whole model')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl|DIR',
        help='keep the predictions: a pickle of all, or for segmentation a folder of label maps',
    )
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw the predictions of every image into DIR; nothing there is overwritten',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='of --show, in seconds')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_fuse_argument(parser)
    add_sweep_arguments(parser)
    add_launch_arguments(parser)
    add_config_arguments(parser)
    return parser.parse_args()


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('test-time benchmark over resolutions')
    group.add_argument(
        '--resolutions',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help='test at each short side, the long side scaled with it; results go to the work '
        'directory, and what is there already is not measured again',
    )
    group.add_argument(
        '--aspect-ratios',
        nargs='+',
        default=[],
        metavar='W:H',
        help='also stretch the images to each of these, at the training resolution',
    )
    group.add_argument(
        '--train-resolution',
        type=int,
        metavar='PIXELS',
        help='that the others are compared with (default: the short side of the test pipeline)',
    )
    group.add_argument('--metric', help="to compare (default: the evaluator's usual one)")
    group.add_argument(
        '--compare', nargs='+', metavar='CSV', help='draw the results of several models'
    )
    group.add_argument('--plot', metavar='FILE', help='picture of --compare')


def main() -> None:
    args = parse_args()
    with clear_errors():
        if args.compare:
            compare(args)
            return
        if args.config is None or args.checkpoint is None:
            raise InputError(
                'name a config and a checkpoint: python -m mmrest test CONFIG CHECKPOINT'
            )
        check_sweep(args)
        cfg = config_from_arguments(args)
        if args.show or args.show_dir:
            show_results(cfg, args.show_dir, args.show, args.wait_time)
        if args.tta:
            use_tta(cfg)
        if args.out:
            dump_results(cfg, args.out)
        if args.fuse and not args.compile:  # compiled blocks must stay what they are
            use_fused_model(cfg)
        cfg.load_from, cfg.resume = args.checkpoint, False
        require_run(cfg, 'test')
        require_files(cfg)
        require_buildable_model(cfg)
        prepare_data(cfg, ['test'])
        require_usable_data(cfg, ['test'])
        if args.resolutions:
            ratios = [parse_aspect_ratio(text) for text in args.aspect_ratios]
            sweep_resolutions(cfg, args.resolutions, ratios, args.train_resolution, args.metric)
            return
        run_test(build_runner(cfg))
        leave_process_group()


def check_sweep(args: argparse.Namespace) -> None:
    """Check that the options go together, before anything is read."""
    if not args.resolutions:
        if args.aspect_ratios or args.train_resolution is not None or args.metric or args.plot:
            raise InputError(
                '--aspect-ratios, --train-resolution and --metric are of --resolutions, --plot of '
                '--compare'
            )
        return
    given = [('--resolutions', side) for side in args.resolutions]
    if args.train_resolution is not None:
        given.append(('--train-resolution', args.train_resolution))
    for option, side in given:
        if side < 1:
            raise InputError(f'{option} {side} must be 1 pixel or more')
    for text in args.aspect_ratios:
        parse_aspect_ratio(text)
    if args.out or args.show or args.show_dir or args.tta or args.plot:
        raise InputError('--resolutions goes with none of --out, --show, --show-dir, --tta, --plot')
    if args.launcher != 'none':
        raise InputError('--resolutions tests in one process; leave --launcher out')


def compare(args: argparse.Namespace) -> None:
    """Draw ``--compare`` into ``--plot``."""
    if args.config or args.resolutions or args.metric or not args.plot:
        raise InputError('--compare takes --plot FILE alone: --compare A.csv B.csv --plot c.png')
    require_new_picture('--plot', args.plot, replace=False, hint='name another file')
    draw(args.compare, args.plot)
    print(f'drawn into {args.plot}')


if __name__ == '__main__':
    main()
