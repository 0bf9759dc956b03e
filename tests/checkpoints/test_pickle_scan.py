"""The scan of a pickle lets all through that a person would save; what it refuses is in
``test_hostile_files.py``."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrest.checkpoints import pickle_scan
from mmrest.checkpoints.pickle_scan import TOO_MUCH, has_its_own_hash, require_bounded

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
KEYS = st.recursive(
    ATOMS, lambda keys: st.frozensets(keys, max_size=3) | st.tuples(keys, keys), max_leaves=4
)
VALUES = st.recursive(
    ATOMS | st.sets(KEYS, max_size=3),
    lambda values: (
        st.lists(values, max_size=4)
        | st.tuples(values, values)
        | st.dictionaries(KEYS, values, max_size=4)
        | st.builds(OrderedDict, st.lists(st.tuples(st.text(max_size=3), values), max_size=3))
        | values.map(lambda value: [value, value])
    ),
    max_leaves=20,
)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@given(value=VALUES)
def test_plain_data_are_let_through(protocol: int, value: Any) -> None:
    require_bounded(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_training_saves_is_let_through(protocol: int) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(50)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    circle: list[Any] = [Counter('aab'), 2 + 3j, slice(1, 2), np.float32(1), np.dtype('<f4')]
    circle.append(circle)
    value = dict(model=model, optimizer=optimizer.state_dict(), array=np.ones(9), circle=circle)
    require_bounded(io.BytesIO(pickle.dumps(value, protocol)))


def test_what_is_on_the_stack_twice_counts_twice() -> None:
    twice = b'2\x86'  # a pair of what is on the stack
    require_bounded(io.BytesIO(b'\x80\x02N' + twice * 5 + b'.'))
    with pytest.raises(pickle.UnpicklingError, match='more than a file of this size'):
        require_bounded(io.BytesIO(b'\x80\x02N' + twice * 64 + b'.'))


def met(item: Any, path: tuple[int, ...] = ()) -> int:
    """Items of a list and of all in it, each as often as met."""
    if not isinstance(item, list) or id(item) in path:
        return 1
    return 1 + sum(met(part, (*path, id(item))) for part in item)


@given(links=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=12))
def test_lists_in_many_places_and_in_circles_are_counted(links: list[tuple[int, int]]) -> None:
    lists: list[list] = [[] for _ in range(6)]
    for outer, inner in links:
        lists[outer].append(lists[inner] if inner < len(lists) else pickle_scan._ATOM)
    items = met(lists[0])
    assert pickle_scan._walk(lists[0], items) == items
    assert pickle_scan._walk(lists[0], items - 1) > items - 1


def test_pickles_that_follow_each_other_are_all_looked_at() -> None:
    pair = b'q\x00h\x00\x86'
    good, bad = pickle.dumps([1, 2], 2), b'\x80\x02N\x85' + pair * 64 + b'.'
    file = io.BytesIO(good + good + bad)
    require_bounded(file, 2)
    with pytest.raises(pickle.UnpicklingError, match='more than a file of this size'):
        require_bounded(file)


@pytest.mark.parametrize(('pairs', 'is_refused'), [(11, False), (12, True)])
def test_the_bound_is_ten_thousand_items_for_a_small_file(pairs: int, is_refused: bool) -> None:
    content = b'\x80\x02N\x85' + b'q\x00h\x00\x86' * pairs + b'.'  # 3 * 2^pairs - 1 items
    if not is_refused:
        require_bounded(io.BytesIO(content))
        return
    with pytest.raises(pickle.UnpicklingError, match='more than a file of this size'):
        require_bounded(io.BytesIO(content))


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand items, so that what reaches a bound can be counted by hand."""
    monkeypatch.setattr(pickle_scan, '_AT_LEAST', 10_000)
    monkeypatch.setattr(pickle_scan, '_MOST_OF_KEYS', 10_000)


def scan(content: bytes) -> None:
    require_bounded(io.BytesIO(b'\x80\x04' + content + b'.'))


def is_refused(content: bytes, why: str = TOO_MUCH) -> None:
    with pytest.raises(pickle.UnpicklingError, match=f'^{why}'):
        scan(content)


def put(number: int) -> bytes:
    return b'q' + bytes([number])


def get(number: int) -> bytes:
    return b'h' + bytes([number])


def test_the_bound_grows_by_eight_with_each_opcode() -> None:
    def content(size: int, times: int) -> bytes:
        return b'(' + b'N' * size + b't' + put(0) + b'0](' + get(0) * times + b'e'

    # 255 times a tuple of 48 in a list are 1 + 255 * 49 = 12,496 items. There are 48 + 255 + 9
    # opcodes, and 8 * 312 + 10,000 = 12,496
    scan(content(48, 255))
    is_refused(content(55, 219))  # 12,265 items, 8 * 283 + 10,000 = 12,264


@pytest.mark.parametrize(
    'twice',
    [
        lambda k: put(k) + get(k) + b'\x86',
        lambda k: b'p%d\ng%d\n\x86' % (k, k),
        lambda k: (b'r' + bytes([k, 0, 0, 0])) + (b'j' + bytes([k, 0, 0, 0])) + b'\x86',
        lambda k: b'\x94' + get(k) + b'\x86',
        lambda k: b'2\x86',
        lambda k: b'20' + b'2\x86',
        lambda k: b'(N1' + b'2\x86',
        lambda k: put(k) + b'0(' + get(k) * 2 + b't',
        lambda k: put(k) + b'0(' + get(k) * 2 + b'l',
        lambda k: put(k) + b'0(I1\n' + get(k) + b'I2\n' + get(k) + b'd',
        lambda k: put(k) + b'0N' + get(k) * 2 + b'\x87',
    ],
)
def test_whatever_stands_twice_counts_twice(twice: Callable[[int], bytes]) -> None:
    scan(b'N\x85' + b''.join(map(twice, range(5))))
    is_refused(b'N\x85' + b''.join(map(twice, range(64))))


@pytest.mark.parametrize(
    ('container', 'fill'),
    [
        (b']', lambda item: item + b'a' + item + b'a'),
        (b']', lambda item: b'(' + item * 2 + b'e'),
        (b'(l', lambda item: b'(' + item * 2 + b'e'),
        (b'}', lambda item: b'K\x01' + item + b's' + b'K\x02' + item + b's'),
        (b'}', lambda item: b'(K\x01' + item + b'K\x02' + item + b'u'),
        (b'(d', lambda item: b'(K\x01' + item + b'K\x02' + item + b'u'),
        (b'\x8f', lambda item: b'(' + item * 2 + b'\x90'),
        (b']', lambda item: item * 2 + b'\x86b'),
        (b'cm\nf\n)R', lambda item: item * 2 + b'\x86b'),
    ],
)
def test_what_is_filled_later_holds_it_wherever_it_stands(
    container: bytes, fill: Callable[[bytes], bytes]
) -> None:
    def content(depth: int) -> bytes:
        steps = (container + put(k + 1) + fill(get(k)) + b'0' for k in range(depth))
        return b'N\x85' + put(0) + b'0' + b''.join(steps) + get(depth)

    scan(content(5))
    is_refused(content(64))


CALLS: dict[str, Callable[[bytes], bytes]] = {
    'REDUCE': lambda arguments: b'cm\nf\n' + arguments + b'R',
    'NEWOBJ': lambda arguments: b'cm\nf\n' + arguments + b'\x81',
    'NEWOBJ_EX': lambda arguments: b'cm\nf\n' + arguments + b'}\x92',
    'NEWOBJ_EX, names': lambda arguments: b'cm\nf\n)' + arguments + b'\x92',
    'OBJ': lambda arguments: b'(cm\nf\n' + arguments + b'o',
    'INST': lambda arguments: b'(' + arguments + b'im\nf\n',
    'BINPERSID': lambda arguments: arguments + b'Q',
}


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_arguments_are_looked_at_though_the_result_is_dropped(
    call: Callable[[bytes], bytes],
) -> None:
    scan(call(b'N\x85') + b'0N')
    is_refused(call(b'N\x85' + b'2\x86' * 64) + b'0N')
    # each alone is within the bound
    many = b'(' + b'N' * 1000 + b't' + put(0)
    scan(many + (call(get(0)) + b'0') * 10)
    is_refused(many + (call(get(0)) + b'0') * 40)


@pytest.mark.parametrize('call', [b'N)R', b'N)\x81', b'N)}\x92', b'(NNo', b'cm\nf\n)R)R'])
def test_what_is_called_is_a_global(call: bytes) -> None:
    is_refused(call, 'Trying to call reduce for what is no global')


@pytest.mark.parametrize(
    'function', [b'cm\nf\n', b'Vm\nVf\n\x93', b'\x82\x01', b'\x83\x01\x00', b'\x84\x01\x00\x00\x00']
)
def test_globals_of_every_kind_may_be_called(function: bytes) -> None:
    scan(function + b')R')


def number(value: int) -> bytes:
    return b'\x8a\x14' + value.to_bytes(20, 'little')


@pytest.mark.parametrize(
    ('key', 'most'),
    [
        # of 10,000 items in keys: a tuple and what is in it
        (b'N\x85', 5000),
        # a number, and each 64 bits of it
        (number(2**61 - 1), 5000),
        (number(2**63), 3333),
        (number(2**127), 2500),
    ],
)
@pytest.mark.parametrize(
    'as_keys',
    [
        lambda keys: b'}' + b''.join(key + b'N\x85s' for key in keys),
        lambda keys: b'}(' + b''.join(key + b'N\x85' for key in keys) + b'u',
        lambda keys: b'(' + b''.join(key + b'N\x85' for key in keys) + b'd',
        lambda keys: b'\x8f(' + b''.join(keys) + b'\x90',
        lambda keys: b'(' + b''.join(keys) + b'\x91',
    ],
)
def test_keys_hold_at_most_ten_thousand_items(
    as_keys: Callable[[list[bytes]], bytes], key: bytes, most: int
) -> None:
    scan(as_keys([key] * most))
    is_refused(as_keys([key] * (most + 1)))


def test_texts_and_small_numbers_may_be_any_number_of_keys() -> None:
    scan(b'}(' + b'Va\nN' * 20_000 + b'u')
    scan(b'\x8f(' + (b'K\x01' + number(2**14 - 1)) * 20_000 + b'\x90')


@pytest.mark.parametrize(
    ('key', 'has'),
    [
        (0, True),
        (2**14 - 1, True),
        (2**14, False),  # a file may choose such as come to one place, one after the other
        (-1, False),
        (2**61 - 1, False),  # its hash is that of 0
        ('text', True),
        (1.5, False),
        (None, True),
        (True, True),
        ((1,), False),
        (b'bytes', False),
    ],
)
def test_which_keys_have_a_hash_of_their_own(key: Any, has: bool) -> None:
    assert has_its_own_hash(key) == has
