"""Draw predictions: ``python tools/predict.py CONFIG CHECKPOINT IMAGE... --out-dir DIR``."""

import argparse

from mmrest.commands.cli import (
    add_config_arguments,
    add_fuse_argument,
    config_from_arguments,
    require_files,
)
from mmrest.commands.features import parse_point
from mmrest.commands.predict import plan_pictures, predict, require_no_features
from mmrest.errors import ArgumentParser, InputError, clear_errors


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(
        description='Draw the predictions of a detector or segmentor into pictures.'
    )
    parser.add_argument('config', help='a config of mmdet or mmseg, or the name of one of mmrest')
    parser.add_argument('checkpoint', help='of the whole model')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files or folders of them')
    parser.add_argument('--out-dir', required=True, metavar='DIR', help='where the pictures go')
    parser.add_argument('--device', help='cpu, cuda:0, ...; by default a GPU if there is one')
    parser.add_argument(
        '--score-thr', type=_score, default=0.3, help='detections below it, 0 to 1, are not drawn'
    )
    add_fuse_argument(parser)
    parser.add_argument(
        '--features',
        action='store_true',
        help="also draw the backbone's levels, position encodings, and the attention of one token",
    )
    parser.add_argument(
        '--point',
        metavar='X,Y',
        help='where that token is: 0,0 is the top left corner, 1,1 the bottom right one, and '
        '0.5,0.5 the default',
    )
    parser.add_argument('--force', action='store_true', help='replace pictures in --out-dir')
    add_config_arguments(parser)
    return parser.parse_args()


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is no score; scores go from 0 to 1')
    return value


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = config_from_arguments(args)
        require_files(cfg, args.checkpoint)
        if args.point and not args.features:
            raise InputError('--point is of --features, which is not given')
        point = parse_point(args.point or '0.5,0.5')
        plan = plan_pictures(args.images, args.out_dir, args.force)
        if args.features:
            require_no_features(plan.values(), args.force)
        problems = []
        for result in predict(
            cfg,
            args.checkpoint,
            plan,
            args.device,
            args.score_thr,
            args.fuse,
            point if args.features else None,
        ):
            if isinstance(result, InputError):
                problems.append(result)
            else:
                print(result, flush=True)
        if problems:
            raise InputError('\n'.join(map(str, problems)))


if __name__ == '__main__':
    main()
