"""Arguments and errors that the command lines in ``tools/`` share."""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from mmrest.checkpoints import require_fit, require_training_state, use_safe_reader
from mmrest.engine.compiling import use_compiled_backbone
from mmrest.engine.config import iterate_dicts, load_config
from mmrest.errors import InputError
from mmrest.ops.ways import requested_way


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


def require_new_file(option: str, path: str, replace: bool, hint: str) -> None:
    """Check that a file can be written, before anything is measured.

    Raises:
        InputError: It exists and may not be replaced, is a folder, or its folder is missing.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise InputError(
            f'{option} {path} cannot be written: it or its folder is no place for a file'
        )
    if os.path.exists(path) and not replace:
        raise InputError(f'{path} exists; {hint}')


def require_new_picture(option: str, path: str, replace: bool, hint: str) -> None:
    """Check that a picture can be drawn into a file, before anything is measured.

    Raises:
        InputError: As :func:`require_new_file`, or matplotlib does not know such pictures.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    require_new_file(option, path, replace, hint)
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if os.path.splitext(path)[1].lower().lstrip('.') not in known:
        raise InputError(f'{option} {path}: the name must end with one of {", ".join(known)}')


def config_from_arguments(args: argparse.Namespace) -> Config:
    """The config that the arguments describe; ``InputError`` if they cannot be met."""
    requested_way()  # what the environment asks for exists
    if hasattr(args, 'local_rank'):
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(
        args.config,
        args.cfg_options,
        args.data_root,
        getattr(args, 'work_dir', None),
        getattr(args, 'launcher', 'none'),
    )
    if getattr(args, 'compile', False):
        use_compiled_backbone(cfg)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """The runner of a config, reading checkpoints safely.

    Raises:
        InputError: The config describes no model, or its work directory cannot be written.
    """
    if 'model' not in cfg:
        raise InputError(f'{cfg.filename} describes no model')
    require_writable(cfg.work_dir)
    use_safe_reader()
    if cfg.launcher != 'none':
        choose_model_wrapper(cfg)
    if cfg.launcher == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def require_writable(folder: str | os.PathLike) -> None:
    """Make a folder, and check that files can be written into it.

    Raises:
        InputError: It cannot be made or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f'the work directory {folder} cannot be used: {error}') from error


def leave_process_group() -> None:
    """End a run of several processes together; without it one may crash while another works on."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def choose_model_wrapper(cfg: Config) -> None:
    """Name the wrapper for several processes where mmengine's default does not do.

    On a CPU mmengine would ask for a device; a model that takes its resolutions in turn has a
    wrapper of its own. What the config says itself goes before.
    """
    in_turn = cfg.model.get('type', '').endswith('MultiResolution') and cfg.model.get('accumulate')
    on_cpu = not torch.cuda.is_available()
    if in_turn or on_cpu:
        cfg.model_wrapper_cfg = {
            'type': 'MultiResolutionDDP' if in_turn else 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            **(dict(device_ids=None) if on_cpu else {}),
        }


def require_resumable(runner: Runner, cfg: Config) -> None:
    """Check that the checkpoint of ``--resume`` or ``load_from`` is of use to the model.

    A checkpoint to resume must fit entirely. One to start from may have other heads, as in all of
    OpenMMLab, but not nothing in common with the model.

    Raises:
        CheckpointError: It is not; the message names the keys.
    """
    source = cfg.get('load_from')
    if cfg.get('resume'):
        source = source or find_latest_checkpoint(cfg.work_dir)
        if source:
            require_training_state(source)
            require_fit(runner.model, source)
    elif source:
        require_fit(runner.model, source, partly=True)


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
