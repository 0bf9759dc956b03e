"""Reading a config and changing it as the command line asks."""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import importlib
import importlib.util
import inspect
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import Any

from mmengine.config import Config
from mmengine.registry import FUNCTIONS, TRANSFORMS
from mmengine.runner import FlexibleRunner, Runner

from mmrest.checkpoints import use_safe_reader
from mmrest.commands.data_root import move_data_root
from mmrest.commands.processes import warn
from mmrest.commands.settings import require_kinds
from mmrest.config_nodes import iterate_dicts, scope_of
from mmrest.errors import InputError, did_you_mean, list_some
from mmrest.lookup import config_names, config_path

# settings beside the runner's arguments that mmengine's, mmdet's and our commands read
_READ_BESIDE = (
    *('auto_scale_lr', 'built_in_data', 'custom_imports', 'model_wrapper_cfg', 'runner_type'),
    *('strategy', 'find_unused_parameters', 'sync_bn', 'tta_model', 'tta_pipeline', 'fp16'),
    *('compile', 'fine_tuning'),
)
# of these, a misspelt one is missed by nothing; variables of other names are none's business
_OPTIONAL = (
    *('load_from', 'resume', 'custom_hooks', 'custom_imports', 'param_scheduler', 'randomness'),
    *('auto_scale_lr', 'log_processor', 'env_cfg', 'built_in_data', 'model_wrapper_cfg'),
)
# whose classes an option of the command line may name by their module; some others of torch start
# processes
_MAY_BE_NAMED = (
    *('mmrest', 'mmdet', 'mmseg', 'mmengine', 'mmcv', 'mmpretrain', 'mmcls', 'mmyolo', 'mmrotate'),
    *('mmpose', 'mmocr', 'mmdet3d', 'mmaction', 'mmselfsup', 'torchvision', 'timm'),
    *('torch.nn', 'torch.optim', 'torch.utils.data', 'torch.distributed.optim'),
)
# of mmengine and of packages on it
_MODULES_OF_CONFIGS = {'apis', 'config', 'hub', 'infer', 'registry'}
# what mmengine runs or unpickles, YAML too; checkpoints are read safely, and what is written is not
_RUN_BY_READING = 'py', 'pkl', 'pickle', 'pk', 'yaml', 'yml'
_OF_WEIGHTS_OR_OUTPUT = (
    *('checkpoint', 'load_from', 'pretrained', 'ckpt', 'out', 'prefix', 'save'),
    'proposals_file',  # which mmdet's DumpProposals writes
)
# of mmdet and mmseg: a config, whatever its suffix, and what is unpickled, whatever its suffix
_READ_AS_CODE = (
    'teacher_config',
    'split_file',
    'hierarchy_file',
    'meta_file',
    'rfstructure_file',
    'decode_backend',
    'sys_path',  # of mmengine's memcached backend, which imports from there
)
# of words, of which a class may be called as a suffix; and what is a name itself
_OF_WORDS = 'classes', ''
# what classes of mmdet and mmcv evaluate as Python
_EVALUATED = 'type', 'warp_mode', 'search_op'
# run or read where a config's file is
_READ_WITH_THE_FILE = '_base_', 'custom_imports'
_PACKAGES = 'mmrest', 'mmdet', 'mmseg', 'mmpretrain'


def load_config(
    path: str,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config of mmdet or mmseg as their command lines do.

    Args:
        path: The config's file, or the name of one of the package.
        options: ``--cfg-options``: dotted key -> value, merged first.
        data_root: Folder that every data set and evaluator of the config is moved to.
        work_dir: Where logs and checkpoints go; by default ``work_dirs/`` + the config's name.
        launcher: As mmengine's ``Runner``.

    Raises:
        InputError: There is no such config, or it cannot be changed as asked.
    """
    use_safe_reader()  # some of mmdet's models read weights while they are built
    file = find_config(path)
    try:
        cfg = Config.fromfile(file)
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path} or a base of it is not written in UTF-8 ({error}); save it as UTF-8'
        ) from error
    except InputError:
        raise
    except Exception as error:  # a config is code, which fails as it likes
        if isinstance(error, ImportError) and isinstance(error.__cause__, ImportError):
            raise InputError(f'{path}: {_failed_import(error.__cause__)}') from error
        raise InputError(
            f'{path} is no config that can be read: {type(error).__name__}: {error}'
            f'{_place_in_config(error)}{_meant_base(file) or _meant_file(error)}'
        ) from error
    _require_library(cfg)
    cfg.launcher = launcher
    if options:
        cfg = _merge(cfg, options)
    require_kinds(cfg)
    for name in set(cfg) - _settings():
        meant = difflib.get_close_matches(name, _OPTIONAL, n=1, cutoff=0.85)
        # a variable may be called as others are; one letter is a slip
        meant = meant or difflib.get_close_matches(name, _settings(), n=1, cutoff=0.93)
        if meant:
            warn(f'{path}: no run reads {name}; is it {meant[0]}?')
    if data_root is not None:
        move_data_root(cfg, data_root)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', file.stem))
    return cfg


def _place_in_config(error: Exception) -> str:
    """Where the code of a config, or of a base of it, has failed; empty if it was not run."""
    last = extract_tb(error.__traceback__)[-1]
    return f' ({last.filename}:{last.lineno})' if last.name == '<module>' else ''


def _meant_base(file: Path) -> str:
    """Which of our configs a ``_base_`` perhaps means, as the end of a message."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        tree = ast.parse(file.read_text(encoding='utf-8'))
        for statement in tree.body:
            is_base = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0])
            if is_base != '_base_':
                continue
            value = ast.literal_eval(statement.value)
            for base in [value] if isinstance(value, str) else value:
                name = Path(base.rpartition('::')[2]).name
                if name.removesuffix('.py') in config_names() and base != f'mmrest::{name}':
                    return f"; did you mean _base_ = 'mmrest::{name.removesuffix('.py')}.py'?"
    return ''


def _meant_file(error: Exception) -> str:
    """Which file beside one that is not there is spelled alike, as the end of a message."""
    found = re.search(r'file "(.+)" does not exist', str(error))
    if not isinstance(error, FileNotFoundError) or not found:
        return ''
    path = Path(found[1])
    return did_you_mean(path.name, [file.name for file in path.parent.glob('*.py')], most=3)


@contextmanager
def saved_config(path: str, options: Mapping[str, Any] | None) -> Iterator[str]:
    """A file of the config with the options merged, for another process to read.

    Args:
        path: As of :func:`load_config`, which says what it raises.
        options: ``--cfg-options``; without any it is the config's own file.
    """
    if not options:
        yield str(find_config(path))
        return
    cfg = load_config(path, options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, find_config(path).name)
        cfg.dump(file)
        yield str(file)


def _merge(cfg: Config, options: Mapping[str, Any]) -> Config:
    for key in options:
        _require_plain_key(key)
    changed = copy.deepcopy(cfg)
    try:
        changed.merge_from_dict(dict(options))
    except Exception as error:  # mmengine's own checks, and what they forget
        failed = [key for key, value in options.items() if _fails(cfg, key, value)]
        raise InputError(
            f'--cfg-options {list_some(failed or options)} cannot be merged into it: {error}'
        ) from error
    for key, value in options.items():
        _require_no_code(key, value)
        if name := _foreign_name(key, value, cfg):
            raise InputError(
                f'--cfg-options {key}: {name} is no class of PyTorch, of OpenMMLab or of '
                "the config's custom_imports, or one that runs configs; a config's file may name "
                'anything, an option not'
            )
        if meant := _misspelt_section(cfg, key):
            raise InputError(f'--cfg-options {key}: no run reads {key.split(".")[0]}; {meant}')
        if doubt := _doubt(cfg, key):
            warn(f'--cfg-options {key}: {doubt}')
    return changed


def _require_plain_key(key: str) -> None:
    """A run writes its options into a config's file, which is code: names must stay names there."""
    first, *rest = key.split('.')
    if first in _READ_WITH_THE_FILE:
        raise InputError(
            f'--cfg-options {key}: {first} is read with the config, before any option is; write it '
            'into a config'
        )
    if not first.isidentifier() or not all(re.fullmatch(r'[\w-]+', part) for part in rest):
        raise InputError(
            f'--cfg-options {key!r}: a name is of letters, digits, _ and -, with dots between the '
            'levels'
        )


def _require_no_code(key: str, value: Any) -> None:
    """An option is no expression, and names no file, that runs code in whoever reads it."""
    for name, text in _named_texts(key.rpartition('.')[2], value):
        reads = not any(word in name for word in _OF_WEIGHTS_OR_OUTPUT)
        # as mmengine tells them apart, also where a name is nothing else
        is_code = (
            name not in _OF_WORDS and reads and text.lower().rpartition('.')[2] in _RUN_BY_READING
        )
        is_expression = name in _EVALUATED and not re.fullmatch(r'[\w.]+', text)
        if '{{' in text:
            raise InputError(
                f'--cfg-options {key}: {text}: mmengine fills what is in {{{{...}}}} whenever it '
                'reads the config that a run writes, which can run code; leave the braces out'
            )
        if is_code or is_expression or name in _READ_AS_CODE:
            raise InputError(
                f'--cfg-options {key}: {text} can run code; a config may name it, an option not'
            )


def _named_texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in an option, with the name of what it is a value of; a name itself with none."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _named_texts(str(key), one)
            yield '', str(key)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _named_texts(name, one)
    elif isinstance(value, str):
        yield name, value


def _foreign_name(key: str, value: Any, cfg: Config) -> str | None:
    """The class or scope in an option that a registry would import though an option may not."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or ()
    imports = [imports] if isinstance(imports, str) else imports
    packages = {*_MAY_BE_NAMED, *(own.partition('.')[0] for own in imports)}
    for node in iterate_dicts({key.rpartition('.')[2]: value}):
        for setting in ('type', 'constructor', 'runner_type'):
            name = node.get(setting)
            if isinstance(name, str) and '.' in name and not _may_be_named(name, packages):
                return name
        for setting in ('_scope_', 'default_scope'):
            scope = node.get(setting)
            if isinstance(scope, str) and not _is_in(scope, packages):
                return scope
    return None


def _may_be_named(name: str, packages: Iterable[str]) -> bool:
    """Whether building a type runs none but the code of models; ``os.system`` is a type, too."""
    if not _is_in(name, packages):
        return False
    parts = name.split('.')
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module('.'.join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        if found is not None:
            # which put batches together
            if any(found is function for function in FUNCTIONS.module_dict.values()):
                return True
            is_class = isinstance(found, type) and _is_in(found.__module__, packages)
            return is_class and not _reads_configs(found)
        break
    # a scope and a registry's name, as mmdet.ResNet; of mmdet.os.system a registry runs os.system
    return len(parts) == 2


def _reads_configs(kind: type) -> bool:
    """True for inferencers, runners and the like, which are given configs, and these are code."""
    parts = {part.lstrip('_') for part in kind.__module__.split('.')}
    return bool(parts & _MODULES_OF_CONFIGS) or issubclass(kind, Runner | FlexibleRunner)


def _is_in(name: str, packages: Iterable[str]) -> bool:
    return any(f'{name}.'.startswith(f'{package}.') for package in packages)


def _misspelt_section(cfg: Config, key: str) -> str:
    """Which setting is meant by an option whose section is not there; empty if none is known."""
    first, *rest = key.split('.')
    if first in cfg or first in _settings():
        return ''
    if not rest:  # it may have lost its section
        there = {name: cfg[name] for name in _settings() if isinstance(cfg.get(name), Mapping)}
        sections = [name for name, section in there.items() if first in section]
        return f'did you mean {sections[0]}.{first}?' if len(sections) == 1 else ''
    there = [name for name in _settings() if name in cfg]
    return did_you_mean(first, there).removeprefix('; ')


@cache
def _settings() -> set[str]:
    """Names at the top of a config that a run reads."""
    return {*inspect.signature(Runner).parameters, *_READ_BESIDE}


def _fails(cfg: Config, key: str, value: Any) -> bool:
    try:
        copy.deepcopy(cfg).merge_from_dict({key: value})
    except Exception:
        return True
    return False


def _doubt(cfg: Config, key: str) -> str | None:
    """Why an option may change nothing."""
    first = key.split('.')[0]
    if first not in _settings():
        if first in cfg:
            return (
                f'{first} is a variable of the config file, from which other settings were made; '
                'no run reads it. Change those settings'
            )
        return f'no run reads a setting of this name{did_you_mean(first, _settings())}'
    node: Any = cfg.to_dict()
    for depth, part in enumerate(key.split('.')):
        if not isinstance(node, Mapping):  # a list
            return None
        if part not in node:
            # what has a type refuses an unknown argument; elsewhere nothing does
            is_checked = not depth or 'type' in node
            hint = '' if is_checked else did_you_mean(part, node)
            return f'the config has no {part} there{hint}' if hint else None
        node = node[part]
    return None


def _failed_import(error: ImportError) -> str:
    """What mmengine says of ``custom_imports``, without the places where it looked."""
    failed = str(error).removeprefix('Failed to import ')
    reason = error.__context__ or error
    package = failed.partition('.')[0]
    if package in _PACKAGES and importlib.util.find_spec(package) is None:
        return f'custom_imports: {failed} needs {package}, which is not installed'
    hint = did_you_mean(failed, _PACKAGES)
    return (
        f'custom_imports: {failed} cannot be imported ({reason}){hint or "; "}'
        f'{" M" if hint else "m"}odules are looked for in the working directory and on PYTHONPATH'
    )


def _require_library(cfg: Config) -> None:
    scope = scope_of(cfg)
    package = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation'}.get(scope)
    if package and importlib.util.find_spec(scope) is None:
        raise InputError(
            f'this config needs {scope}, which is not installed: pip install {package}'
        )


def find_config(path: str) -> Path:
    """The file of a config.

    Args:
        path: A file, or the name of a config that comes with the package.

    Raises:
        InputError: There is neither; the message names what is like it.
    """
    file = Path(path)
    if file.is_file():
        if file.suffix in ('.pth', '.pt', '.pkl', '.safetensors'):
            raise InputError(f'{path} is a checkpoint, not a config; the config comes first')
        return file
    name = path.removeprefix('mmrest::').removesuffix('.py')
    is_name = path.startswith('mmrest::') or file.parent == Path()
    if is_name and name in config_names():
        return Path(config_path(name))
    names = [str(f) for f in file.parent.glob('*.py')] if file.parent.is_dir() else []
    names += config_names() if is_name else []
    hint = did_you_mean(str(file), names, most=3)
    if not hint and is_name and any(name.lower() in known for known in config_names()):
        hint = f'; `list {name}` shows those that have it in their names'
    found = 'is a folder, not a config' if file.is_dir() else 'is not there'
    where = f' (looked in {file.parent.resolve()})' if not is_name else ''
    raise InputError(f'config {path} {found}{where}{hint}')


def require_model(cfg: Config, option: str | None = None) -> None:
    """Check that a config describes a model.

    Args:
        cfg: Of mmdet or mmseg.
        option: What it is needed for, for the message.

    Raises:
        InputError: It does not.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise InputError((f'{option}: ' if option else '') + f'{cfg.filename} describes no model')


def name_transforms(cfg: Config) -> None:
    """Write the test pipeline's classes as their names, changed in place.

    mmdet's and mmseg's inferencers look for transforms by name; registries understand both.

    Raises:
        InputError: The config has no such pipeline.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    if not (pipeline := dataset.get('pipeline')):
        raise InputError(
            f'{cfg.filename} has no test_dataloader.dataset.pipeline, which prepares images'
        )
    with TRANSFORMS.switch_scope_and_registry(scope_of(cfg)) as registry:
        for node in iterate_dicts(pipeline):
            if isinstance(kind := node.get('type'), type):
                registered = registry.get(kind.__name__) is kind
                full = f'{kind.__module__}.{kind.__qualname__}'
                node['type'] = kind.__name__ if registered else full
