"""Reading a checkpoint changes nothing for anybody else, and nobody else changes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmrest.checkpoints import CheckpointError, read_checkpoint, use_safe_reader
from mmrest.checkpoints.plain_pickle import only_plain_data
from mmrest.ops import use_implementation
from mmrest.ops.dispatch import requested

# what torch's own error message advises to allow, for a checkpoint of mmengine
NUMPY = [np.dtype, np.ndarray, np.zeros(1).__reduce__()[0], type(np.dtype('f8')), HistoryBuffer]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    content = {
        'state_dict': {'a': torch.ones(1)},
        'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0], [1])}},
        'scores': np.arange(3.0),
    }
    torch.save(content, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


@pytest.fixture
def _numpy_allowed() -> Iterator[None]:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(NUMPY)
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def by_torch(file: Path) -> Any:
    return torch.load(file, weights_only=True)['scores']


@pytest.mark.usefixtures('_numpy_allowed')
def test_what_the_process_allows_does_not_count(checkpoint: Path) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    for _ in range(5):
        content = read_checkpoint(checkpoint)
        assert type(content['message_hub']['log_scalars']['loss']) is HistoryBuffer
        assert np.array_equal(content['scores'], np.arange(3.0))
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert isinstance(by_torch_in_plain(checkpoint), np.ndarray)


def by_torch_in_plain(file: Path) -> Any:
    torch.save({'scores': np.arange(3.0)}, file)
    return by_torch(file)


@pytest.mark.usefixtures('_numpy_allowed')
def test_another_thread_loads_as_ever_during_a_read(tmp_path: Path) -> None:
    file = tmp_path / 'scores.pth'
    torch.save({'scores': np.arange(3.0)}, file)
    found = []
    with only_plain_data():
        thread = threading.Thread(target=lambda: found.append(by_torch(file)))
        thread.start()
        thread.join()
    assert isinstance(found[0], np.ndarray)


def test_another_thread_is_not_allowed_more_during_a_read(tmp_path: Path) -> None:
    file = tmp_path / 'scores.pth'
    torch.save({'scores': np.arange(3.0)}, file)
    errors = []

    def load() -> None:
        try:
            by_torch(file)
        except Exception as error:
            errors.append(type(error).__name__)

    with only_plain_data():
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    assert errors == ['UnpicklingError']


def test_overlapping_requests_of_threads_leave_nothing_behind() -> None:
    first_entered, second_entered, first_left = (threading.Event() for _ in range(3))
    seen = {}

    def first() -> None:
        with use_implementation('reference'):
            first_entered.set()
            second_entered.wait(10)
            seen['first'] = requested()
        first_left.set()

    def second() -> None:
        first_entered.wait(10)
        seen['second, before'] = requested()
        with use_implementation('blockwise'):
            second_entered.set()
            first_left.wait(10)
            seen['second'] = requested()
        seen['second, after'] = requested()

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {'first': 'reference', 'second, before': 'auto', 'second': 'blockwise'}
    assert seen == {**expected, 'second, after': 'auto'}
    assert requested() == 'auto'


class Payload:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


SCHEMES = sorted(CheckpointLoader._schemes)


@pytest.fixture
def _safe_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    use_safe_reader()


@pytest.mark.usefixtures('_safe_reader')
def test_every_scheme_of_mmengine_reads_safely() -> None:
    # mmengine's own, by their names in its documentation
    for scheme in ('http', 'https', 's3', 'petrel', 'pavi', 'torchvision', 'modelzoo'):
        assert any(f'{scheme}://' in known for known in SCHEMES), scheme
    loaders = {loader.__name__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {'load_from_mmrest'}


@pytest.mark.usefixtures('_safe_reader')
@pytest.mark.parametrize('scheme', ['torchvision', 'modelzoo', 'open-mmlab', 'openmmlab', 'mmcls'])
def test_short_names_are_resolved_and_read_safely(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmrest.checkpoints import addresses

    good, bad, marker = tmp_path / 'good.pth', tmp_path / 'bad.pth', tmp_path / 'ran'
    torch.save({'state_dict': {'backbone.a': torch.ones(2)}}, good)
    torch.save({'state_dict': {'a': torch.ones(2)}, 'meta': Payload(marker)}, bad)
    table = {'good': f'file://{good}', 'bad': f'file://{bad}'}
    monkeypatch.setitem(addresses._TABLES, scheme, lambda: table)
    monkeypatch.setattr(mmengine_checkpoint, 'get_deprecated_model_names', dict)
    loaded = CheckpointLoader.load_checkpoint(f'{scheme}://good')
    # a classifier's backbone is meant
    key = 'a' if scheme == 'mmcls' else 'backbone.a'
    assert torch.equal(loaded['state_dict'][key], torch.ones(2))
    with pytest.raises(CheckpointError, match='is refused'):
        CheckpointLoader.load_checkpoint(f'{scheme}://bad')
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="no model 'goodd'; did you mean good"):
        CheckpointLoader.load_checkpoint(f'{scheme}://goodd')
