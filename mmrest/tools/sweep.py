"""Test a model at several resolutions: ``mmrest sweep CONFIG CHECKPOINT``.

The same as ``mmrest test CONFIG CHECKPOINT --resolutions ...``, which by default are here half,
0.7, 1.4 and 2 times the resolution of the config's test pipeline.
"""

import sys

from mmrest.commands.config import load_config
from mmrest.commands.image_size import find_resize
from mmrest.errors import InputError, clear_errors
from mmrest.tools import test

RATIOS = 0.5, 0.7, 1.4, 2.0


def main() -> None:
    """Run the command line."""
    args = test.parse_args(
        'Test a detector or segmentor at several resolutions: by default at '
        f'{", ".join(map(str, RATIOS))} times that of its test pipeline.'
    )
    with clear_errors():
        if not args.compare and not (args.config and args.checkpoint):
            raise InputError(
                'name a config and a checkpoint: python -m mmrest sweep CONFIG CHECKPOINT'
            )
    if args.config and args.checkpoint and not args.resolutions:
        with clear_errors():
            cfg = load_config(args.config, args.cfg_options)
            usual = min(find_resize(cfg).scale)
        sys.argv += ['--resolutions', *(str(round(ratio * usual)) for ratio in RATIOS)]
    test.main()


if __name__ == '__main__':
    main()
