"""OpenMMLab's short names, and copies of remote files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmrest.checkpoints import CheckpointError, CheckpointNotFoundError, addresses
from mmrest.checkpoints.addresses import fetch, is_local, resolve_address


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    return tmp_path / 'hub' / 'checkpoints'


def refuse(path: str) -> None:
    if Path(path).read_bytes() != b'weights':
        raise CheckpointError(f'{path} is another file')


@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo'])
def test_torchvisions_names_are_known_without_it(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError('operator torchvision::nms does not exist')

    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models', fail)
    address = resolve_address(f'{scheme}://resnet50')
    assert address.startswith('https://download.pytorch.org/models/resnet50-')
    with pytest.raises(CheckpointError, match=r"has no model 'resnet5o'; did you mean .*resnet50"):
        resolve_address(f'{scheme}://resnet5o')


def test_a_table_of_ones_own_may_name_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    (tmp_path / 'open_mmlab.json').write_text(
        json.dumps({'own': 'weights/own.pth', 'far': 'https://example.org/far.pth'})
    )
    assert resolve_address('open-mmlab://own') == str(tmp_path / 'weights/own.pth')
    assert resolve_address('openmmlab://far') == 'https://example.org/far.pth'


@pytest.mark.parametrize('scheme', ['open-mmlab', 'openmmlab'])
def test_names_of_older_models_are_known(scheme: str) -> None:
    address = resolve_address(f'{scheme}://detectron/resnet50_caffe')
    assert address.startswith('https://')
    assert resolve_address(f'{scheme}://resnet50_caffe') == address  # deprecated since mmcv 1
    with pytest.raises(CheckpointError, match='has no model'):  # in another's table it is none
        resolve_address('torchvision://resnet50_caffe')
    assert resolve_address('https://example.org/open-mmlab://a') == (
        'https://example.org/open-mmlab://a'
    )


def test_what_no_backend_reads_is_named() -> None:
    with pytest.raises(CheckpointError, match=r'nowhere://a\.pth cannot be read: mmengine has no'):
        is_local('nowhere://a.pth')
    assert is_local('a.pth')
    assert not is_local('pavi://a')
    assert not is_local('https://example.org/a.pth')


def test_pavi_is_asked_where_it_is_installed(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'pavi', None)
    with pytest.raises(CheckpointError, match=r'pavi://model: pavi is not installed'):
        fetch('pavi://model', refuse)

    def get(name: str) -> SimpleNamespace:
        assert name == 'model'
        return SimpleNamespace(
            name='weights.pth', download=lambda path: Path(path).write_bytes(b'weights')
        )

    modelcloud = SimpleNamespace(get=get)
    monkeypatch.setitem(sys.modules, 'pavi', SimpleNamespace(modelcloud=modelcloud))
    assert Path(fetch('pavi://model', refuse)).read_bytes() == b'weights'
    assert {path.suffix for path in hub.iterdir()} <= {'', '.lock'}
    assert not Path('weights.pth').exists()


def test_a_copy_that_is_another_file_is_fetched_again(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = [b'weights']
    monkeypatch.setattr(addresses, '_download', lambda source: served[-1])
    copy = Path(fetch('https://example.org/a.pth', refuse))
    copy.write_bytes(b'older weights')
    assert fetch('https://example.org/a.pth', refuse) == str(copy)
    assert copy.read_bytes() == b'weights'

    # neither a wrong file nor half of one is kept, and what was there stays
    copy.write_bytes(b'older weights')
    served.append(b'other')
    with pytest.raises(CheckpointError, match='is another file'):
        fetch('https://example.org/a.pth', refuse)
    assert copy.read_bytes() == b'older weights'
    assert not list(hub.glob('*.tmp'))

    def fail(source: str) -> bytes:
        raise OSError('no route to host')

    monkeypatch.setattr(addresses, '_download', fail)
    with pytest.raises(CheckpointNotFoundError, match=r'b\.pth cannot be fetched: no route'):
        fetch('https://example.org/b.pth', refuse)


def test_each_address_has_a_copy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, '_download', lambda source: b'weights')
    sources = [
        'https://example.org/a/model.pth',
        'https://example.org/b/model.pth',
        'https://example.org/a/model.pth?token=1/2',
    ]
    copies = [Path(fetch(source, refuse)) for source in sources]
    assert len({*copies}) == 3
    assert all(copy.name.endswith('-model.pth') for copy in copies)
