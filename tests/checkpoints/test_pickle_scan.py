"""The scan of a pickle lets all through that a person would save; what it refuses is in
``test_hostile_files.py``."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrest.checkpoints.pickle_scan import require_bounded

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
