"""Arguments and errors that the command lines in ``tools/`` share."""

from __future__ import annotations

import argparse
import copy
import errno
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import MODELS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from mmrest.checkpoints import CheckpointNotFoundError, use_safe_reader
from mmrest.checkpoints.published import SCHEME, obtain
from mmrest.commands.config import load_config, require_model
from mmrest.commands.data_errors import explain_data_errors
from mmrest.commands.output_files import require_writable
from mmrest.commands.processes import (
    RepeatedWarningsHook,
    choose_model_wrapper,
    explain_lost_processes,
    join_on_cpu,
    require_launched,
)
from mmrest.commands.quiet import hide_library_noise
from mmrest.commands.settings import require_sound_settings
from mmrest.config_nodes import is_pretrained, iterate_dicts, scope_of, type_name
from mmrest.engine.compiling import use_compiled_backbone
from mmrest.engine.config_errors import explain_config_errors
from mmrest.engine.map_channels import explain_map_channels
from mmrest.engine.run_checks import saved_last, watch_run
from mmrest.engine.unread_levels import require_all_levels_read
from mmrest.errors import InputError, Interrupted
from mmrest.ops.dispatch import requested

# in it mmengine's hook names the last checkpoint of a work directory
_RECORD = 'last_checkpoint'
# settings that a test does not read
_OF_TRAINING = 'train_', 'val_', 'optim_wrapper.', 'param_scheduler', 'auto_scale_lr.'


class _ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` arguments, with an error for what is none."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        read: dict[str, object] = {}
        for value in values:
            key, separator, _ = value.partition('=')
            if not (separator and key):
                parser.error(f'{option_string} {value}: write KEY=VALUE')
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (AssertionError, RecursionError, ValueError):
                parser.error(
                    f'{option_string} {value}: lists are written [1,2] and tuples (1,2), of '
                    'numbers and words; give what is in a dict by its keys, KEY.INNER=VALUE'
                )
            read.update(getattr(namespace, self.dest))
        setattr(namespace, self.dest, read)
        namespace.given_options = values


def options_given(args: argparse.Namespace) -> str:
    """``--data-root`` and ``--cfg-options`` as they were given, for a test of what was trained."""
    words = ['--data-root', args.data_root] if args.data_root else []
    given = args.given_options if args.cfg_options else []
    options = [option for option in given if not option.startswith(_OF_TRAINING)]
    words += ['--cfg-options', *options] if options else []
    return ''.join(f' {shlex.quote(word)}' for word in words)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options`` and ``--data-root``, the same everywhere."""
    add_config_options(parser, 'change the config')
    parser.add_argument(
        '--data-root', metavar='DIR', help='read every data set of the config from DIR'
    )


def add_config_options(parser: argparse.ArgumentParser, does: str) -> None:
    """``--cfg-options`` alone."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_ConfigOptions,
        metavar='KEY=VALUE',
        help=f'{does}, for example model.backbone.with_cp=True',
    )


def add_fuse_argument(parser: argparse.ArgumentParser) -> None:
    """``--no-fuse``, of the commands that infer."""
    parser.add_argument(
        '--no-fuse',
        dest='fuse',
        action='store_false',
        help='infer with the model as it was trained: BatchNorms apart',
    )


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """``--work-dir``, ``--compile`` and ``--launcher``, of the commands that start a Runner."""
    parser.add_argument('--work-dir', metavar='DIR', help='where logs and checkpoints go')
    parser.add_argument(
        '--compile', action='store_true', help='torch.compile the backbone, for any image size'
    )
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
    requested()  # what the environment asks for exists
    hide_library_noise()
    if hasattr(args, 'local_rank'):
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(
        args.config,
        args.cfg_options,
        args.data_root,
        getattr(args, 'work_dir', None),
        getattr(args, 'launcher', 'none'),
    )
    require_launched(cfg.get('launcher', 'none'))
    if getattr(args, 'compile', False):
        use_compiled_backbone(cfg)
    return cfg


def require_run(cfg: Config, part: str) -> None:
    """Check that a config describes a run; before its data, which takes longer.

    Args:
        cfg: Of mmdet or mmseg.
        part: ``'train'`` or ``'test'``.

    Raises:
        InputError: It does not, or a setting of it would fail after a while.
    """
    require_model(cfg)
    needed = [f'{part}_dataloader', f'{part}_cfg']
    needed.append('test_evaluator' if part == 'test' else 'optim_wrapper')
    absent = [key for key in needed if not cfg.get(key)]
    if cfg.get('test_cfg') is not None and 'test_cfg' in absent:
        absent.remove('test_cfg')  # dict(): mmengine's usual loop
    if absent:
        raise InputError(
            f'{cfg.filename} has no {" and no ".join(absent)}, so that it cannot {part}'
        )
    require_sound_settings(cfg, part)


def require_buildable_model(cfg: Config) -> None:
    """Build the model once before the data are made or read, which takes longer.

    Raises:
        InputError: It cannot be built.
    """
    model = copy.deepcopy(cfg.model)  # models change what they are built from
    if cfg.get('data_preprocessor'):  # as mmengine's Runner
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    try:
        with explain_config_errors(), DefaultScope.overwrite_default_scope(scope_of(cfg)):
            MODELS.build(model)
    except InputError:
        raise
    except Exception:  # a run, which prepares more, may say otherwise
        return


def build_runner(cfg: Config, purpose: str = 'test', skip_non_finite: bool = False) -> Runner:
    """The runner of a config, which reads checkpoints safely and watches its run.

    Args:
        cfg: Of mmdet or mmseg, after :func:`require_run`.
        purpose: What it is for: ``'test'``, ``'resume'`` a training, or ``'start'`` one.
        skip_non_finite: Leave out steps of a training whose loss is no number.

    Raises:
        InputError: The work directory cannot be written, or a part of the config cannot be built.
    """
    require_writable(cfg.work_dir)
    use_safe_reader()
    if cfg.launcher != 'none':
        choose_model_wrapper(cfg)
    join_on_cpu(cfg.launcher)
    with explain_config_errors():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    watch_run(runner, purpose, skip_non_finite)
    runner.register_hook(RepeatedWarningsHook(), 'VERY_LOW')
    if purpose != 'test' and cfg.launcher != 'none':
        require_all_levels_read(runner.model)
    return runner


def run_training(runner: Runner) -> None:
    """Train, and say in one line what a user can mend.

    Raises:
        InputError: The config cannot be built, an image cannot be read, another process is lost,
            or the disk is full; the message names what was saved last.
    """
    with _explain_errors(runner):
        try:
            runner.train()
        except KeyboardInterrupt:
            raise Interrupted(
                f'ended by SIGINT at once; {saved_last(runner.work_dir)}', signal.SIGINT
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            reason = 'takes no file so large' if error.errno == errno.EFBIG else 'is full'
            raise InputError(
                f'the disk of {runner.work_dir} {reason}: {error}; {saved_last(runner.work_dir)}. '
                'Make room and go on with --resume; default_hooks.checkpoint.max_keep_ckpts=3 '
                'keeps fewer checkpoints'
            ) from error


def run_test(runner: Runner) -> None:
    """Test.

    Raises:
        InputError: The config cannot be built, an image cannot be read, or another process is lost.
    """
    with _explain_errors(runner):
        runner.test()


@contextmanager
def _explain_errors(runner: Runner) -> Iterator[None]:
    with (
        explain_config_errors(),
        explain_data_errors(runner),
        explain_map_channels(runner.model),
        explain_lost_processes(runner),
        _explain_resumption(runner),
    ):
        yield


@contextmanager
def _explain_resumption(runner: Runner) -> Iterator[None]:
    """Name the checkpoint that mmengine cannot go on from for a reason that no check foresees."""
    try:
        yield
    except (InputError, OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = (frame for frame, _ in walk_tb(error.__traceback__))
        places = {(frame.f_globals.get('__name__', ''), frame.f_code.co_name) for frame in frames}
        if not any(name == 'resume' and of.startswith('mmengine.') for of, name in places):
            raise
        raise InputError(
            f'{runner._load_from or "the checkpoint"} cannot be resumed: '
            f'{type(error).__name__}: {error}'
        ) from error


def require_files(cfg: Config, checkpoint: str | None = None, trains: bool = False) -> None:
    """Check that the checkpoints that a run will read are there, before anything is built.

    The authors' files (``mmrest://``) are fetched now.

    Args:
        cfg: Of mmdet or mmseg.
        checkpoint: Of the whole model, where ``load_from`` does not name it.
        trains: Weights that a training would start from are read, too.

    Raises:
        InputError: One is missing; the message names it.
    """
    entries = iterate_dicts(cfg.get('model')) if trains else ()
    wanted = [
        entry['checkpoint'] for entry in entries if is_pretrained(entry) and entry.get('checkpoint')
    ]
    wanted += [path for path in (cfg.get('load_from'), checkpoint) if path]
    named = ' (load_from of the config)' if trains and not cfg.get('resume') else ''
    for path in wanted:
        if path.startswith(SCHEME):
            try:
                obtain(path)
            except CheckpointNotFoundError as error:
                raise InputError(
                    f'{error}\nOr train from random weights, with nothing frozen (and expect to '
                    'need a longer schedule): --from-scratch'
                ) from error
        elif '://' not in path and not _may_be_checkpoint(os.path.expanduser(path)):
            exists = 'holds the name of one' if os.path.isfile(path) else 'does not exist'
            what = 'is a folder' if os.path.isdir(path) else exists
            of = named if path == cfg.get('load_from') else ''
            raise InputError(
                f'checkpoint {path}{of} {what} (looked in {os.path.abspath(path)})'
                f'{_last_checkpoint_at(path)}'
            )


def _may_be_checkpoint(path: str) -> bool:
    return os.path.isfile(path) and os.path.basename(path) != _RECORD


def _last_checkpoint_at(path: str) -> str:
    """The last checkpoint of the work directory that was perhaps meant, as a message's end."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    record = os.path.join(folder, _RECORD)
    if not os.path.isfile(record):
        return ''
    with open(record) as file:
        last = os.path.join(folder, os.path.basename(file.read().strip()))
    return f'; the last one there is {last}' if os.path.isfile(last) else ''


def use_amp(cfg: Config) -> None:
    """Train in mixed precision: ``--amp``.

    Raises:
        InputError: The config has no ``optim_wrapper``.
    """
    require_model(cfg, '--amp')
    if not cfg.get('optim_wrapper'):
        raise InputError(f'--amp: {cfg.filename} has no optim_wrapper')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.loss_scale = 'dynamic'


def require_accelerator_for_amp(cfg: Config) -> None:
    """Say that mmengine's AMP needs an accelerator, before anything is built.

    Which of them it takes (CUDA, NPU, MLU, MUSA, ...) is left to mmengine.

    Raises:
        InputError: AMP is asked for on a machine without one.
    """
    if type_name(cfg.get('optim_wrapper')) == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise InputError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU and torch sees none; '
            'leave --amp out, or where the config asks for it add --cfg-options '
            'optim_wrapper.type=OptimWrapper, to train in float32'
        )
