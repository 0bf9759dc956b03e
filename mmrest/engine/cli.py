"""Arguments and errors that the command lines in ``tools/`` share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmrest.checkpoints import CheckpointError, use_safe_reader
from mmrest.engine.config import iterate_dicts, load_config
from mmrest.errors import InputError


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options`` and ``--data-root``, the same everywhere."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change the config, for example model.backbone.with_cp=True',
    )
    parser.add_argument(
        '--data-root', metavar='DIR', help='read every data set of the config from DIR'
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir`` and ``--launcher``, of the commands that start a Runner."""
    parser.add_argument('--work-dir', metavar='DIR', help='where logs and checkpoints go')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it, torchrun sets LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def parse_shape(text: str) -> tuple[int, int]:
    """Height and width of a shape like ``800x1344``.

    Raises:
        InputError: It is not of that form.
    """
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f'{text} is no image size; write HEIGHTxWIDTH, for example 800x1344')
    return int(height), int(width)


def config_from_arguments(args: argparse.Namespace) -> Config:
    """The config that the arguments describe; ``InputError`` if they cannot be met."""
    if hasattr(args, 'local_rank'):
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return load_config(
        args.config,
        args.cfg_options,
        args.data_root,
        getattr(args, 'work_dir', None),
        getattr(args, 'launcher', 'none'),
    )


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, reading checkpoints safely."""
    use_safe_reader()
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Show errors that are the user's to mend as one text, without a traceback."""
    try:
        yield
    except (InputError, CheckpointError) as error:
        sys.exit(f'error: {error}')


def require_files(cfg: Config, checkpoint: str | None = None) -> None:
    """Check that the checkpoints that a run will read are there, before anything is built.

    Raises:
        InputError: One is missing; the message names it.
    """
    wanted = [
        entry['checkpoint']
        for entry in iterate_dicts(cfg.get('model'))
        if entry.get('type') == 'Pretrained' and entry.get('checkpoint')
    ]
    wanted += [path for path in (cfg.get('load_from'), checkpoint) if path]
    for path in wanted:
        if '://' not in path and not os.path.isfile(os.path.expanduser(path)):
            what = 'is a folder' if os.path.isdir(path) else 'does not exist'
            raise InputError(f'checkpoint {path} {what} (looked in {os.path.abspath(path)})')


def require_gpu_for_amp(cfg: Config) -> None:
    """Say that mmengine's AMP needs an accelerator, before anything is built.

    Raises:
        InputError: AMP is asked for on a machine without one.
    """
    kind = (cfg.get('optim_wrapper') or {}).get('type')
    if kind == 'AmpOptimWrapper' and not torch.cuda.is_available():
        raise InputError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU and torch sees none; '
            'leave it out to train in float32'
        )
