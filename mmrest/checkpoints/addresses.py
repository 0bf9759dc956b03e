"""Where a checkpoint is: OpenMMLab's short names, and local copies of remote files."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping

import mmengine
import torch
from filelock import FileLock
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MMLogger
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmrest.checkpoints.errors import CheckpointError, CheckpointNotFoundError
from mmrest.errors import did_you_mean


def resolve_address(source: str) -> str:
    """Path or URL of a name like ``torchvision://resnet50``; other sources as they are.

    Raises:
        CheckpointError: OpenMMLab's tables have no such name.
    """
    scheme, separator, name = source.partition('://')
    if not separator or scheme not in _TABLES:
        return source
    table = _TABLES[scheme]()
    if scheme in ('open-mmlab', 'openmmlab'):
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    if name not in table:
        hint = did_you_mean(name, table, most=3)
        raise CheckpointError(f'{source}: {scheme}:// has no model {name!r}{hint}')
    address = table[name]
    if '://' in address:
        return address
    return os.path.join(mmengine_checkpoint._get_mmengine_home(), address)


def is_local(address: str) -> bool:
    """True for a path of this machine.

    Raises:
        CheckpointError: mmengine has no file backend for it.
    """
    if address.startswith('pavi://'):
        return False
    try:
        return isinstance(get_file_backend(address), LocalBackend)
    except (KeyError, ImportError) as error:
        raise CheckpointError(
            f'{address} cannot be read: mmengine has no file backend for it here ({error})'
        ) from error


def fetch(source: str, verify: Callable[[str], None]) -> str:
    """Path of a local copy of a remote file, in torch.hub's folder of checkpoints.

    Args:
        source: A URI that one of mmengine's file backends reads, or ``pavi://...``.
        verify: Raises an error if a file is not the expected one.

    Raises:
        CheckpointNotFoundError: It cannot be fetched.
        CheckpointError: It is not the expected file, or nothing here reads such URIs.
    """
    folder = pathlib.Path(torch.hub.get_dir(), 'checkpoints')
    folder.mkdir(parents=True, exist_ok=True)
    address = hashlib.sha256(source.encode()).hexdigest()[:12]
    cached = folder / f'{address}-{source.split("?")[0].rsplit("/", 1)[-1]}'
    with FileLock(f'{cached}.lock'):
        if cached.exists():
            try:
                verify(str(cached))
                return str(cached)
            except CheckpointError:  # another version: fetch it again
                pass
        MMLogger.get_current_instance().info(f'fetching {source} to {cached}')
        temporary = cached.with_suffix(f'{cached.suffix}.{os.getpid()}.tmp')
        try:
            temporary.write_bytes(_download(source))
            verify(str(temporary))
            temporary.replace(cached)
        except OSError as error:
            raise CheckpointNotFoundError(f'{source} cannot be fetched: {error}') from error
        finally:
            temporary.unlink(missing_ok=True)
    return str(cached)


def _download(source: str) -> bytes:
    if source.startswith('pavi://'):
        return _download_from_pavi(source.removeprefix('pavi://'))
    return get_file_backend(source).get(source)


def _download_from_pavi(name: str) -> bytes:
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise CheckpointError(f'pavi://{name}: pavi is not installed here') from error
    model = modelcloud.get(name)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, model.name)
        model.download(str(file))
        return file.read_bytes()


def _torchvision_models() -> Mapping[str, str]:
    try:
        return mmengine_checkpoint.get_torchvision_models()
    except Exception:  # torchvision is missing, or does not fit torch; its old names need it not
        return mmengine.load(str(pathlib.Path(mmengine.__path__[0], 'hub/torchvision_0.12.json')))


_TABLES: dict[str, Callable[[], Mapping[str, str]]] = {
    'torchvision': _torchvision_models,
    'modelzoo': _torchvision_models,
    'open-mmlab': mmengine_checkpoint.get_external_models,
    'openmmlab': mmengine_checkpoint.get_external_models,
    'mmcls': mmengine_checkpoint.get_mmcls_models,
}
