"""Reading checkpoints without running any code of theirs."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mmrest.checkpoints.addresses import fetch, is_local, resolve_address
from mmrest.checkpoints.archives import require_checksums, require_sound_archive
from mmrest.checkpoints.download import sha256_of
from mmrest.checkpoints.errors import CheckpointError, CheckpointNotFoundError
from mmrest.checkpoints.pickle_scan import TOO_MUCH, require_bounded
from mmrest.checkpoints.plain_pickle import (
    is_plain_pickle,
    only_plain_data,
    read_plain_pickle,
    settle,
)
from mmrest.checkpoints.published import SCHEME, obtain
from mmrest.errors import list_some

# torch's files before they were archives: a magic number, the protocol, the machine, what was
# saved, and the names of the storages, which follow
_PICKLES_BEFORE_ARCHIVES = 5
# with which pickles begin since protocol 4, in torch's words
_FRAME = 'Unsupported operand 149'


def read_checkpoint(
    source: str | os.PathLike,
    sha256: str | None = None,
    map_location: str | torch.device | None = 'cpu',
) -> Any:
    """Read ``.pth`` / ``.pt`` / ``.pkl`` / ``.safetensors`` and run no code of the file.

    Args:
        source: A local path, or a URI that one of mmengine's file backends reads (``http://``,
            ``s3://``, ...), or a name like ``torchvision://resnet50`` or ``mmrest://rest_small``;
            remote files are kept in torch.hub's folder of checkpoints, the last in one of their
            own (see :mod:`.published`).
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
        if head.startswith(b'PK'):
            require_sound_archive(path)
            require_checksums(path)
        scan_pickles(path)
        with only_plain_data(os.path.getsize(path)):
            if is_plain_pickle(head):
                return settle(read_plain_pickle(path))
            return settle(torch.load(path, map_location=map_location, weights_only=True))
    except CheckpointError as error:
        raise CheckpointError(f'{source} is refused: {error}') from None
    except Exception as error:  # torch raises many kinds for a damaged file
        text = str(error)
        if TOO_MUCH in text:
            raise CheckpointError(
                f'{source} is refused: of its {os.path.getsize(path)} bytes many times as much '
                'would be made, or looked at (or it has too many keys that are neither text nor '
                'small numbers)'
            ) from None
        if 'Attempting to deserialize object on' in text:
            raise CheckpointError(
                f'{source} cannot be put on {map_location!r} here: torch has no such device '
                "(map_location='cpu' reads it anywhere)"
            ) from None
        needs = re.findall(r'GLOBAL ([\w.]+)', text) or _unsafe_globals(path)
        if needs or 'Can only build' in text or 'Trying to call reduce' in text:
            raise CheckpointError(
                f'{source} is refused: to read it, {list_some(needs) or "code"} would have to be '
                'unpickled, which can run code. If you trust its origin, load it where it was '
                'written and save its state_dict alone, or as .safetensors.'
            ) from None
        raise CheckpointError(
            f'{source} is no complete PyTorch checkpoint: {_describe_damage(path, head, text)}'
        ) from None


def dataset_meta(checkpoint: Any) -> dict[str, Any]:
    """Class names and colours of a training checkpoint, as JSON has them; empty if it has none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    known = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    known = known if isinstance(known, Mapping) else {}
    lists = {k: v for k, v in known.items() if k in ('classes', 'palette') and v is not None}
    return {k: _as_lists(v) for k, v in lists.items()}


def _as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


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


def scan_pickles(path: str | os.PathLike) -> None:
    """Look at the pickles of a file before they are read.

    Raises:
        pickle.UnpicklingError: See :func:`.require_bounded`.
        Exception: They are damaged, or are none.
    """
    with open(path, 'rb') as file:
        head = file.read(64)
    if head.startswith(b'PK'):
        # by torch's reader: another could find another pickle in an archive made for that
        archive = torch._C.PyTorchFileReader(str(path))
        require_bounded(io.BytesIO(archive.get_record('data.pkl')))
        return
    with open(path, 'rb') as file:
        require_bounded(file, 1 if is_plain_pickle(head) else _PICKLES_BEFORE_ARCHIVES)


def _read_safetensors(path: str, map_location: Any) -> dict[str, Any]:
    device = str(map_location) if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        with safetensors.safe_open(path, framework='pt', device=device) as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = json.loads(metadata.get('meta', '{}'))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{path} is no complete safetensors file ({error})') from error
    return {'state_dict': state, 'meta': meta}


def _local_path(source: str, sha256: str | None) -> str:
    """Path of a verified local copy of ``source``."""

    def verify(path: str) -> None:
        if sha256 and (found := sha256_of(path)) != sha256.lower():
            raise CheckpointError(f'{source} has SHA-256 {found}, expected {sha256.lower()}')

    if source.startswith(SCHEME):
        path = obtain(source)
        verify(path)
        return path
    address = resolve_address(source).removeprefix('file://')
    if not is_local(address):
        return fetch(address, verify)
    path = os.path.expanduser(address)
    if not os.path.isfile(path):
        what = 'a folder, not a file' if os.path.isdir(path) else 'not there'
        raise CheckpointNotFoundError(
            f'checkpoint {source} is {what} (looked in {os.path.abspath(path)})'
        )
    verify(path)
    return path


def _unsafe_globals(path: str) -> list[str]:
    try:
        with only_plain_data():
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not even the list can be read: the file is damaged
        return []


def _describe_damage(path: str, head: bytes, error: str) -> str:
    if not head:
        return 'the file is empty'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a Git LFS pointer; run `git lfs pull`'
    if head.lstrip()[:1] == b'<':
        return 'it is a web page; was the download behind a form?'
    if 'TorchScript' in error:
        return 'it is a TorchScript program; save the state_dict of its model'
    if _FRAME in error:
        return (
            'it was saved with pickle_protocol=4 or higher, and the safe reader of torch knows 2 '
            'alone; save it again without that option'
        )
    if 'file data.pkl' in error:
        return 'it is an archive of something else, as of an exported program'
    if head.startswith(b'PK'):
        return f'its archive is damaged, perhaps cut short at {os.path.getsize(path)} bytes'
    return f'it is damaged, or something else (it begins with {head[:8]!r})'
