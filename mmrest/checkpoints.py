"""Reading checkpoints safely and fitting them to a backbone strictly.

mmengine's own reader either unpickles whatever a file holds, code included, or (mmengine 0.10.7 on
torch >= 2.6) cannot read the training checkpoints that it wrote; and its ``Pretrained``
initialisation loads whatever keys happen to match. Here a file is read with
``torch.load(weights_only=True)`` and a short list of plain data types, and a backbone is loaded
only if every key and shape fits.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmrest.errors import InputError
from mmrest.plain_pickle import allowed_globals, settle
from mmrest.wrappers import unwrap_model

_WRAPPERS = ('module.', '_orig_mod.')  # DistributedDataParallel, torch.compile
_NESTING = ('state_dict', 'model')
_BACKBONE_PREFIXES = ('backbone.bottom_up.', 'bottom_up.', 'backbone.')


class CheckpointError(InputError):
    """A checkpoint cannot be read safely, or does not fit the model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""


@dataclass
class RenamedCheckpoint:
    """A backbone's checkpoint in the backbone's own key names.

    Attributes:
        state: Own key name -> tensor; what is of no use to this configuration is left out, what is
            not understood stays under its old name (and is then an error).
        optional: Own keys that a file of this layout cannot have.
        notes: Hints for the error message or the log.
    """

    state: dict[str, Tensor]
    optional: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


class Renames(Protocol):
    """A module that knows the key names of its published checkpoints."""

    def rename_checkpoint(self, state: Mapping[str, Tensor]) -> RenamedCheckpoint:
        """A checkpoint of any published layout in the module's own key names."""

    def guess_variant(self, state: Mapping[str, Tensor]) -> str | None:
        """The published variant that ``state`` seems to hold."""

    def state_dict(self) -> dict[str, Tensor]:
        """As ``nn.Module``."""

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool) -> Any:
        """As ``nn.Module``."""


def load_pretrained(
    backbone: Renames,
    checkpoint: str,
    sha256: str | None = None,
    prefix: str | None = None,
    map_location: str | torch.device | None = 'cpu',
) -> None:
    """Load a checkpoint of any known layout into a backbone, all of it or nothing.

    Args:
        backbone: Changed in place.
        checkpoint: Path or URL; see :func:`read_checkpoint`.
        sha256: Expected SHA-256 of the file.
        prefix: Part of the model to take, for example ``'teacher.backbone'``. Without it the
            backbone is found in detectors and segmentors of OpenMMLab and detectron2.
        map_location: As :func:`torch.load`.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is damaged, needs code to be unpickled, or does not fit; the
            message names the keys and the variant that the file seems to hold.
    """
    state = take_backbone(
        model_state(read_checkpoint(checkpoint, sha256, map_location), checkpoint),
        checkpoint,
        prefix,
    )
    renamed = backbone.rename_checkpoint(state)
    own = backbone.state_dict()
    if misfit := _compare(own, renamed.state, renamed.optional):
        guess = backbone.guess_variant(state)
        lines = [
            f'{checkpoint} does not fit this {type(backbone).__name__}; nothing was loaded.',
            *misfit,
            f'  The file seems to be {guess or "of no variant that mmrest knows"}.',
            *(f'  {note}' for note in renamed.notes),
        ]
        raise CheckpointError('\n'.join(lines))
    backbone.load_state_dict(renamed.state, strict=False)
    fresh = sorted(own.keys() - renamed.state.keys())
    logger = MMLogger.get_current_instance()
    logger.info(
        f'{type(backbone).__name__}: {len(renamed.state)} tensors from {checkpoint}'
        + (f'; not in the file, freshly initialised: {_list_some(fresh)}' if fresh else '')
    )
    for note in renamed.notes:
        logger.warning(note)


def require_fit(model: nn.Module, checkpoint: str, partly: bool = False) -> None:
    """Check that a checkpoint holds every tensor of a model and no other.

    Args:
        model: A whole detector or segmentor; wrappers for several processes or for test-time
            augmentation are looked through.
        checkpoint: Path or URL; see :func:`read_checkpoint`.
        partly: Only check that something fits.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It does not fit; the message names the keys.
    """
    model = unwrap_model(model)
    state = model_state(read_checkpoint(checkpoint), checkpoint)
    own = model.state_dict()
    if partly and any(k in own and own[k].shape == v.shape for k, v in state.items()):
        return
    if misfit := _compare(own, state):
        raise CheckpointError(
            '\n'.join(
                [f'{checkpoint} does not fit the {type(model).__name__} of the config.', *misfit]
            )
        )


def require_training_state(checkpoint: str) -> None:
    """Check that a checkpoint can be resumed from.

    Raises:
        CheckpointError: It holds a model without the state of its training.
    """
    content = read_checkpoint(checkpoint)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping) or 'epoch' not in meta or 'message_hub' not in content:
        raise CheckpointError(
            f'{checkpoint} is not from a training that can be resumed; to start from its weights, '
            'use --cfg-options load_from=FILE instead of --resume'
        )


def model_state(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """The model's tensors out of what a file holds, without the names of wrappers around it.

    Raises:
        CheckpointError: There are no tensors.
    """
    tables = checkpoint
    while isinstance(tables, Mapping):
        state = {
            str(k): v
            for k, v in tables.items()
            if isinstance(v, Tensor) or (isinstance(v, np.ndarray) and v.dtype.kind in 'biufc')
        }
        nested = next((k for k in _NESTING if isinstance(tables.get(k), Mapping)), None)
        if nested is None:
            break
        tables = tables[nested]
    else:
        state = {}
    if not state:
        inside = (
            f'the keys {_list_some(map(str, tables))}'
            if isinstance(tables, Mapping)
            else (f'a {type(tables).__name__}')
        )
        raise CheckpointError(f'{source} holds no tensors of a model, but {inside}')
    state = {k: torch.as_tensor(v) for k, v in state.items()}
    while wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None):
        state = {k.removeprefix(wrapper): v for k, v in state.items()}
    return state


def take_backbone(
    state: Mapping[str, Tensor], source: str, prefix: str | None = None
) -> dict[str, Tensor]:
    """The part of a model's state that belongs to its backbone, or all if it is a bare backbone.

    Raises:
        CheckpointError: ``prefix`` is given and no key has it.
    """
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if not part:
            tops = sorted({k.split('.')[0] for k in state})
            raise CheckpointError(
                f'{source} has no key under {prefix!r}; its keys begin with {_list_some(tops)}'
            )
        return part
    for known in _BACKBONE_PREFIXES:
        part = {k.removeprefix(known): v for k, v in state.items() if k.startswith(known)}
        if part:
            return part
    return dict(state)


def read_checkpoint(
    source: str | os.PathLike,
    sha256: str | None = None,
    map_location: str | torch.device | None = 'cpu',
) -> Any:
    """Read ``.pth`` / ``.pt`` / ``.safetensors`` without running any code of the file.

    Args:
        source: A local path, or a URI that one of mmengine's file backends reads (``http://``,
            ``s3://``, ...); remote files are kept in torch.hub's folder of checkpoints.
        sha256: Expected SHA-256 of the file in hexadecimal digits.
        map_location: As :func:`torch.load`.

    Returns:
        What the file holds; for safetensors ``{'state_dict': ..., 'meta': ...}``.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: Wrong checksum, a damaged file, or one that needs code to be unpickled.
    """
    path = _local_path(str(source), sha256)
    with open(path, 'rb') as file:
        head = file.read(64)
    if path.endswith('.safetensors'):
        return _read_safetensors(path, map_location)
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            return settle(torch.load(path, map_location=map_location, weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        text = str(error)
        if 'Attempting to deserialize object on' in text:
            raise CheckpointError(
                f'{source} cannot be put on {map_location!r} here: torch has no such device '
                "(map_location='cpu' reads it anywhere)"
            ) from None
        needs = re.findall(r'GLOBAL ([\w.]+)', text) or _unsafe_globals(path)
        if needs or 'Can only build' in text or 'Trying to call reduce' in text:
            raise CheckpointError(
                f'{source} is refused: to read it, {_list_some(needs) or "code"} would have to be '
                'unpickled, which can run code. If you trust its origin, load it where it was '
                'written and save its state_dict alone, or as .safetensors.'
            ) from None
        raise CheckpointError(
            f'{source} is no complete PyTorch checkpoint: {_describe_damage(path, head)}'
        ) from None


def dataset_meta(checkpoint: Any) -> dict[str, Any]:
    """Class names and colours of a training checkpoint, as JSON has them; empty if it has none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    known = (meta or {}).get('dataset_meta') or {}
    lists = {k: v for k, v in known.items() if k in ('classes', 'palette') and v is not None}
    return {k: np.asarray(v).tolist() for k, v in lists.items()}


def use_safe_reader() -> None:
    """Make mmengine's runner and inferencers read checkpoints with :func:`read_checkpoint`.

    The command lines in ``tools/`` call this, so that ``--resume`` works on every torch and
    nothing is unpickled unsafely. In your own script call it before building a Runner.
    """
    schemes = ['', 'http://', 'https://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://']
    CheckpointLoader.register_scheme(schemes, load_from_mmrest, force=True)


def load_from_mmrest(filename: str, map_location: Any = None) -> Any:
    """Loader for mmengine's ``CheckpointLoader``, which names loaders ``load_from_...``."""
    checkpoint = read_checkpoint(filename, map_location=map_location)
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    if isinstance(meta, dict):
        # Runner.resume would execute this text as Python; mmengine itself writes `cfg` instead.
        meta.pop('config', None)
    return checkpoint


def save_safetensors(state: Mapping[str, Tensor], path: str, meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-serialisable ``meta`` atomically.

    Args:
        state: Name -> tensor.
        path: Replaced if it exists.
        meta: Comes back under ``'meta'`` from :func:`read_checkpoint`.
    """
    # safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    content = safetensors.torch.save(tensors, {'format': 'pt', 'meta': json.dumps(meta)})
    temporary = pathlib.Path(f'{path}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _compare(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Iterable[str] = ()
) -> list[str]:
    """What is wrong with loading ``state`` where ``own`` is expected; empty if nothing."""
    problems = {
        'missing': sorted(own.keys() - state.keys() - set(optional)),
        'left over': sorted(state.keys() - own.keys()),
        'wrong shape': [
            f'{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}'
            for key, value in state.items()
            if key in own and value.shape != own[key].shape
        ],
    }
    return [f'  {problem}: {_list_some(keys)}' for problem, keys in problems.items() if keys]


def _read_safetensors(path: str, map_location: Any) -> dict[str, Any]:
    device = str(map_location) if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        with safetensors.safe_open(path, framework='pt', device=device) as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = json.loads(metadata.get('meta', '{}'))
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f'{path} is no complete safetensors file ({error})') from error
    return {'state_dict': state, 'meta': meta}


def _local_path(source: str, sha256: str | None) -> str:
    """Path of a verified local copy of ``source``."""
    source = source.removeprefix('file://')
    try:
        backend = get_file_backend(source)
    except (KeyError, ImportError) as error:
        raise CheckpointError(
            f'{source} cannot be read: mmengine has no file backend for it here ({error})'
        ) from error
    if isinstance(backend, LocalBackend):
        path = os.path.expanduser(source)
        if not os.path.isfile(path):
            what = 'a folder, not a file' if os.path.isdir(path) else 'not there'
            raise CheckpointNotFoundError(
                f'checkpoint {source} is {what} (looked in {os.path.abspath(path)})'
            )
        _verify(path, source, sha256)
        return path
    folder = pathlib.Path(torch.hub.get_dir(), 'checkpoints')
    folder.mkdir(parents=True, exist_ok=True)
    address = hashlib.sha256(source.encode()).hexdigest()[:12]
    cached = folder / f'{address}-{source.split("?")[0].rsplit("/", 1)[-1]}'
    with FileLock(f'{cached}.lock'):
        if not cached.exists() or (sha256 and _sha256(str(cached)) != sha256.lower()):
            MMLogger.get_current_instance().info(f'fetching {source} to {cached}')
            temporary = cached.with_suffix(f'{cached.suffix}.{os.getpid()}.tmp')
            try:
                temporary.write_bytes(backend.get(source))
                _verify(str(temporary), source, sha256)
                temporary.replace(cached)
            except OSError as error:
                raise CheckpointNotFoundError(f'{source} cannot be fetched: {error}') from error
            finally:
                temporary.unlink(missing_ok=True)
    return str(cached)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: str, source: str, sha256: str | None) -> None:
    if sha256 and (found := _sha256(path)) != sha256.lower():
        raise CheckpointError(f'{source} has SHA-256 {found}, expected {sha256.lower()}')


def _unsafe_globals(path: str) -> list[str]:
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not even the list can be read: the file is damaged
        return []


def _describe_damage(path: str, head: bytes) -> str:
    if not head:
        return 'the file is empty'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer; run `git lfs pull`'
    if head.lstrip()[:1] == b'<':
        return 'it is a web page; was the download behind a form?'
    if head.startswith(b'PK'):
        return f'its archive is damaged, perhaps cut short at {os.path.getsize(path)} bytes'
    return f'it is damaged, or something else (it begins with {head[:8]!r})'


def _list_some(names: Any, most: int = 12) -> str:
    names = list(names)
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
