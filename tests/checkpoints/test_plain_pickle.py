"""Pickles of arrays and plain data, as numpy and both Pythons write them."""

from __future__ import annotations

import datetime
import io
import pathlib
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, _utils
from torch._tensor import _rebuild_from_type_v2

from mmrest.checkpoints import CheckpointError, read_checkpoint
from mmrest.checkpoints.plain_pickle import only_plain_data, read_plain_pickle, settle


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, without saying that they are bytes."""

    dispatch: ClassVar = {**pickle._Pickler.dispatch}

    def save_bytes(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack('<i', len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def _by_python_2(value: Any) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def _by_python_3(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


# of all values of a byte, which no text encoding but latin1 gives back
BYTES = np.arange(256, dtype=np.uint8)
ARRAYS = {
    'rows first': BYTES.view('<f2').reshape(8, 16),
    'columns first': np.asfortranarray(BYTES.view('<i4').reshape(8, 8)),
    'big-endian': np.arange(6, dtype='>i8').reshape(2, 3),
    'no elements': np.empty((0, 3), np.float32),
    'scalar': np.float64(-1.5),
    'booleans': np.array([True, False]),
}


@pytest.mark.parametrize('write', [_by_python_2, _by_python_3, pickle.dumps])
@pytest.mark.parametrize('name', ARRAYS)
def test_arrays_are_what_they_were(
    name: str, write: Callable[[Any], bytes], tmp_path: Path
) -> None:
    file, array = tmp_path / 'model.pkl', ARRAYS[name]
    file.write_bytes(write({'weight': array}))
    with open(file, 'rb') as opened:
        expected = pickle.load(opened, encoding='latin1')['weight']  # numpy's own
    actual = settle(read_plain_pickle(str(file)))['weight']
    np.testing.assert_array_equal(actual, array)
    np.testing.assert_array_equal(expected, array)
    assert (actual.dtype, actual.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(
    'state',
    [
        (1, (2,), 'float32', False, bytes(8)),
        (1, (2,), np.dtype('O'), False, bytes(16)),
        (1, (2,), np.dtype('f4'), False, [0, 0]),
        (1, (3,), np.dtype('f4'), False, bytes(8)),
    ],
    ids=['no dtype', 'objects', 'no bytes', 'another size'],
)
def test_an_array_of_anything_else_is_refused(state: tuple, tmp_path: Path) -> None:
    class Array:
        def __reduce__(self) -> tuple:
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), state

    file = tmp_path / 'model.pkl'
    file.write_bytes(pickle.dumps({'weight': Array()}, protocol=2))
    with pytest.raises(CheckpointError):
        read_checkpoint(str(file))


def test_bytes_are_not_made_by_the_number(tmp_path: Path) -> None:
    file = tmp_path / 'model.pkl'
    file.write_bytes(b'\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.')
    with pytest.raises(CheckpointError, match=r'builtins\.bytes'):
        read_checkpoint(str(file))


def test_a_history_keeps_its_length(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 1], max_length=3)
    torch.save({'loss': history}, tmp_path / 'epoch_1.pth')
    with only_plain_data():
        read = settle(torch.load(tmp_path / 'epoch_1.pth', weights_only=True))['loss']
    read.update(4.0)
    np.testing.assert_array_equal(read.data[0], [2.0, 3.0, 4.0])


FIELDS = np.zeros(2, [('a', 'f4'), ('b', 'i4')])


@pytest.mark.parametrize('value', [FIELDS, FIELDS[0], np.array([1, None])], ids=repr)
@pytest.mark.parametrize('protocol', [2, 5])
def test_arrays_of_anything_but_numbers_and_text_are_refused(
    value: Any, protocol: int, tmp_path: Path
) -> None:
    file = tmp_path / 'model.pkl'
    file.write_bytes(pickle.dumps({'model': {'weight': value}}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r'numpy\.'):
        read_checkpoint(str(file))


def test_a_kind_of_numbers_is_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / 'model.pkl'
    kinds = {'half': np.dtype('<f2'), 'big': np.dtype('>i4'), 'text': np.dtype('<U7')}
    file.write_bytes(pickle.dumps({'model': {'weight': np.ones(2)}, 'kinds': kinds}))
    assert read_checkpoint(str(file))['kinds'] == kinds


def test_sets_and_counts_are_what_they_were(tmp_path: Path) -> None:
    value = {'names': {'a', 'b', 1, None}, 'counts': Counter('aab'), 'order': OrderedDict(b=1, a=2)}
    torch.save(value, tmp_path / 'a.pth')
    assert read_checkpoint(str(tmp_path / 'a.pth')) == value


def test_an_ordered_dictionary_made_of_another_is_read(tmp_path: Path) -> None:
    content = b'\x80\x02ccollections\nOrderedDict\n}(K\x01K\x02VabK\x03u\x85R.'.replace(
        b'Vab', b'Vab\n'
    )
    (tmp_path / 'a.pkl').write_bytes(content)
    assert read_checkpoint(str(tmp_path / 'a.pkl')) == {1: 2, 'ab': 3}


def test_bytes_that_can_be_changed_are_what_they_were(tmp_path: Path) -> None:
    content = bytearray(range(256))
    torch.save({'state_dict': {}, 'state': content, 'none': bytearray()}, tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))
    assert read['state'] == content
    assert isinstance(read['state'], bytearray)
    assert read['none'] == bytearray()


FACTORIES = (dict, float, int, list, set, str, OrderedDict)
NOON = datetime.datetime(2026, 2, 3, 12, tzinfo=datetime.timezone.utc)
SMALL = {
    'no bytes': b'',
    'names': frozenset({'a', 1}),
    'time': [NOON, NOON.date(), NOON.time(), datetime.timedelta(1, 2, 3)],
    **{kind.__name__: defaultdict(kind, a=kind()) for kind in FACTORIES},
    'nothing': defaultdict(None, {1: 2}),
}


@pytest.mark.parametrize('name', SMALL)
def test_small_plain_data_of_an_archive_is_what_it_was(name: str, tmp_path: Path) -> None:
    torch.save({'state_dict': {}, 'meta': SMALL[name]}, tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['meta'] == SMALL[name]


def test_empty_arrays_and_histories_of_an_archive_are_what_they_were(tmp_path: Path) -> None:
    torch.save({'array': np.zeros((0, 3)), 'history': HistoryBuffer()}, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read['array'].shape == (0, 3)
    assert [len(part) for part in read['history'].data] == [0, 0]


@pytest.mark.parametrize('shape', ['cos', 'linear'])
def test_a_schedule_that_names_its_own_method_goes_on(shape: str, tmp_path: Path) -> None:
    """As mmengine's own hook saves it."""

    def new() -> OneCycleLR:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        arguments = dict(eta_max=0.1, total_steps=10, by_epoch=False, anneal_strategy=shape)
        return OneCycleLR(optimizer, **arguments)

    def values(schedule: OneCycleLR) -> list[float]:
        found = []
        for _ in range(5):
            schedule.optimizer.step()
            schedule.step()
            found.append(schedule.optimizer.param_groups[0]['lr'])
        return found

    first, second = new(), new()
    values(first)
    torch.save({'param_schedulers': [first.state_dict()]}, tmp_path / 'a.pth')
    (state,) = read_checkpoint(tmp_path / 'a.pth')['param_schedulers']
    second.load_state_dict(state)
    assert values(second) == values(first)


class _Calls:
    """What a file may ask for: a call, as ``pickle`` writes it."""

    def __init__(self, called: Any, *arguments: Any) -> None:
        self.reduced = called, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize(
    'called',
    [
        _Calls(defaultdict, print),
        _Calls(defaultdict, bytes),
        _Calls(list, 'ab'),
        _Calls(int, '9' * 100),
        _Calls(str, 1),
        _Calls(bytes, 10**6),
        _Calls(getattr, OneCycleLR, 'step'),
        _Calls(getattr, list, 'append'),
        _Calls(type(OneCycleLR).__call__, OneCycleLR),
    ],
    ids=lambda call: str(call.reduced)[:40],
)
def test_no_more_is_called_for_them(called: _Calls, tmp_path: Path) -> None:
    torch.save({'state_dict': {}, 'meta': called}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'a.pth')


LARGE = torch.zeros(1).expand(12_000, 12_000)  # four bytes, which claim to be 576 MB
LIST = list(range(300))
HONEST = {
    'a set of tuples': {(i, 'a') for i in range(2000)},
    'tuples as keys': {(i, 'a'): i for i in range(4000)},
    'bytes as keys': {str(i).encode(): i for i in range(4000)},
    'large numbers as keys': {2**61 + 3 * i: i for i in range(4000)},
    'a counter of tuples': Counter((i, i) for i in range(4000)),
    'one list in many places': [LIST] * 5000,
    'one number, expanded': torch.zeros(1).expand(10**6),
    'views of one tensor': [torch.zeros(2**18).view(2, -1)] * 40,
}


@pytest.mark.parametrize('name', HONEST)
def test_what_an_honest_file_holds_is_read(name: str, tmp_path: Path) -> None:
    torch.save(HONEST[name], tmp_path / 'a.pth')
    read, expected = read_checkpoint(tmp_path / 'a.pth'), HONEST[name]
    if isinstance(expected, Tensor) or name == 'views of one tensor':
        torch.testing.assert_close(read, expected)
    else:
        assert read == expected


def test_a_tensor_with_an_attribute_is_what_it_was(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    tensor.tag = 'of the test'
    torch.save({'weight': tensor}, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')['weight']
    assert torch.equal(read, tensor)
    assert read.tag == 'of the test'


def from_type(function: Any) -> _Calls:
    return _Calls(_rebuild_from_type_v2, function, Tensor, (torch.zeros(1),) * 3, None)


@pytest.mark.parametrize(
    'value',
    [
        _Calls(_utils._rebuild_device_tensor_from_cpu_tensor, LARGE, torch.float64, 'cpu', False),
        _Calls(_utils._rebuild_sparse_tensor, torch.sparse_coo, (LARGE.long(), LARGE, (9,), False)),
        _Calls(_utils._rebuild_nested_tensor, LARGE, *[torch.zeros(1)] * 3),
        from_type(OneCycleParamScheduler._annealing_linear),
        _Calls(Counter, LARGE),
        _Calls(set, LARGE),
        _Calls(frozenset, LARGE),
        _Calls(torch.Size, LARGE),
        _Calls(OrderedDict, LARGE),
        _Calls(pathlib.PosixPath, *['a/' * 2000] * 2000),
        _Calls(pathlib.PosixPath, 1),
        from_type(_utils._rebuild_wrapper_subclass),
        frozenset({LARGE}),
        {LARGE},
        slice(LARGE),
        LARGE,
    ],
    ids=range(16),
)
def test_what_a_tensor_claims_is_not_made(value: Any, tmp_path: Path) -> None:
    torch.save({'state_dict': {}, 'value': value}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / 'a.pth')
