"""Relative positions: the index in float32, tables of other sizes, both decompositions."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmrest.errors import InputError
from mmrest.ops import (
    attention,
    attention_with_positions,
    blockwise,
    joint_logits,
    position_logits,
    use_implementation,
)
from mmrest.ops.cpu import matmul
from mmrest.ops.relative import relative_index, relative_vectors

SIZES = [
    (1, 1),
    (5, 5),
    (7, 4),
    (4, 7),
    (57, 29),
    (113, 57),
    (151, 76),
    (39, 10),
    (43, 11),
    (78, 20),
]


def index_by_numpy(queries: int, keys: int) -> np.ndarray:
    """As detectron2 computes it, each step rounded to float32."""
    of_queries, of_keys = np.float32(max(keys / queries, 1.0)), np.float32(max(queries / keys, 1.0))
    ahead = np.float32((keys - 1) * max(queries / keys, 1.0))
    places = np.arange(queries, dtype=np.float32)[:, None] * of_queries
    places = places - np.arange(keys, dtype=np.float32)[None] * of_keys
    return (places + ahead).astype(np.int64)


@pytest.mark.parametrize(('queries', 'keys'), SIZES)
def test_index_is_rounded_as_the_authors_is(queries: int, keys: int) -> None:
    index = relative_index(queries, keys, torch.device('cpu'))
    assert np.array_equal(index.numpy(), index_by_numpy(queries, keys))
    assert index.min() >= 0
    assert index.max() <= 2 * max(queries, keys) - 2


def test_the_rounding_shows_at_some_sizes() -> None:
    differ = 0
    for queries in range(1, 400):
        keys = (queries + 1) // 2
        scale = max(queries / keys, 1.0)
        exact = np.trunc(
            np.round(np.arange(queries)[:, None] - np.arange(keys) * scale + (keys - 1) * scale, 9)
        )
        found = relative_index(queries, keys, torch.device('cpu')).numpy()
        differ += not np.array_equal(exact, found)
    assert differ > 0


def test_equal_sizes_give_the_distance() -> None:
    index = relative_index(6, 6, torch.device('cpu'))
    expected = torch.arange(6)[:, None] - torch.arange(6)[None] + 5
    assert torch.equal(index, expected)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_tables_are_resized_linearly(dtype: torch.dtype) -> None:
    table = torch.randn(7, 3).to(dtype)
    assert torch.equal(
        relative_vectors(table, 4, 4), table[relative_index(4, 4, torch.device('cpu'))]
    )
    vectors = relative_vectors(table, 6, 3)
    assert vectors.shape == (6, 3, 3)
    assert vectors.dtype == dtype
    places = (torch.arange(11) + 0.5) * 7 / 11 - 0.5
    by_numpy = np.stack(
        [np.interp(places, np.arange(7), column) for column in table.T.double().numpy()]
    )
    expected = torch.from_numpy(by_numpy.T)[relative_index(6, 3, torch.device('cpu'))]
    torch.testing.assert_close(vectors.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ('grid', 'key_grid'), [((4, 5), (4, 5)), ((6, 3), (3, 2)), ((2, 2), (4, 5))]
)
def test_a_joint_table_that_is_a_sum_is_two_tables(
    grid: tuple[int, int], key_grid: tuple[int, int]
) -> None:
    q = torch.randn(2, *grid, 3, 8, dtype=torch.double)
    lengths = [2 * max(pair) - 1 for pair in zip(grid, key_grid, strict=True)]
    rows, columns = (torch.randn(n, 8, dtype=torch.double) for n in lengths)
    by_row, by_column = position_logits(q, key_grid, rows, columns)
    both = (by_row[..., :, None] + by_column[..., None, :]).flatten(4).flatten(1, 2)
    joint = joint_logits(q, key_grid, rows[:, None] + columns[None])
    torch.testing.assert_close(joint, both.transpose(1, 2))


# in blocks the keys of the last two are filled up
KEY_GRIDS = [(3, 4), (7, 9), (5, 25)]


@pytest.mark.parametrize('implementation', ['auto', 'blockwise'])
@pytest.mark.parametrize('leading', [0, 1])
@pytest.mark.parametrize('key_grid', KEY_GRIDS)
def test_attention_with_positions_is_attention_with_a_bias(
    key_grid: tuple[int, int], leading: int, implementation: str
) -> None:
    torch.manual_seed(0)
    keys = leading + key_grid[0] * key_grid[1]
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.double) for n in (10, keys, keys))
    rows, columns = (torch.randn(2, 3, 10, n, dtype=torch.double) for n in key_grid)
    bias = torch.zeros(2, 3, 10, keys, dtype=torch.double)
    bias[..., leading:] = (rows[..., :, None] + columns[..., None, :]).flatten(3)
    expected = attention(q, k, v, bias)
    for tensor in (q, k, v, rows, columns):
        tensor.requires_grad_()
    with use_implementation(implementation):
        out = attention_with_positions(q, k, v, rows, columns)
    torch.testing.assert_close(out, expected)
    with use_implementation('reference'):
        literal = attention_with_positions(q, k, v, rows, columns)
    direction = torch.randn_like(out)
    inputs = (q, k, v, rows, columns)
    for a, b in zip(
        torch.autograd.grad(out, inputs, direction),
        torch.autograd.grad(literal, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('value_dim', [8, 5])
@pytest.mark.parametrize('elements', [2**20, 200])
@pytest.mark.parametrize('fast_mkl', [False, True])
@pytest.mark.parametrize('leading', [0, 1])
@pytest.mark.parametrize('queries', [1, 10, 70])
@pytest.mark.parametrize('key_grid', KEY_GRIDS)
def test_blocks_add_positions_as_the_literal_form_does(
    key_grid: tuple[int, int],
    queries: int,
    leading: int,
    fast_mkl: bool,
    elements: int,
    value_dim: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Float32 on a processor, in the layout of tokens."""
    monkeypatch.setattr(matmul, 'FAST_MKL', fast_mkl)
    monkeypatch.setattr(blockwise, '_BLOCK_ELEMENTS', elements)
    monkeypatch.setattr(blockwise, '_FEWEST_QUERIES', 1)
    keys = leading + key_grid[0] * key_grid[1]
    shapes = (queries, 8), (keys, 8), (keys, value_dim), *((queries, n) for n in key_grid)
    parts = (torch.randn(2, tokens, 3, n).transpose(1, 2) for tokens, n in shapes)
    q, k, v, rows, columns = (part.requires_grad_() for part in parts)
    inputs = (q, k, v, rows, columns)
    out = attention_with_positions(*inputs)
    with use_implementation('reference'):
        literal = attention_with_positions(*inputs)
    torch.testing.assert_close(out, literal)
    direction = torch.randn_like(out)
    for actual, expected in zip(
        torch.autograd.grad(out, inputs, direction),
        torch.autograd.grad(literal, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fast_mkl', [False, True])
@pytest.mark.parametrize(
    'backend', [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
)
@pytest.mark.parametrize('value_dim', [8, 5])
def test_blocks_take_torchs_fused_attention_where_it_serves(
    value_dim: int, backend: SDPBackend, fast_mkl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, 'FAST_MKL', fast_mkl)
    fused = Mock(wraps=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', fused)
    q, rows, columns = (torch.randn(2, 3, 10, n) for n in (8, 3, 4))
    k, v = (torch.randn(2, 3, 12, n) for n in (8, value_dim))
    with use_implementation('blockwise'), sdpa_kernel(backend):
        out = attention_with_positions(q, k, v, rows, columns)
    serves = fast_mkl and value_dim == 8 and backend == SDPBackend.FLASH_ATTENTION
    assert fused.called == serves
    with use_implementation('reference'):
        torch.testing.assert_close(out, attention_with_positions(q, k, v, rows, columns))


@pytest.mark.parametrize('key_grid', [(4, 5), (2, 3), (9, 1)])
def test_logits_of_positions_have_the_literal_gradients(key_grid: tuple[int, int]) -> None:
    q = torch.randn(2, 4, 5, 3, 8, dtype=torch.double, requires_grad=True)
    tables = [torch.randn(9, 8, dtype=torch.double, requires_grad=True) for _ in range(2)]
    results = []
    for implementation in ('auto', 'reference'):
        with use_implementation(implementation):
            logits = position_logits(q, key_grid, *tables)
        loss = sum((part * torch.arange(part.numel()).view_as(part).cos()).sum() for part in logits)
        results.append((*logits, *torch.autograd.grad(loss, (q, *tables))))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('value_dim', [8, 5])
def test_positions_are_operators_of_torch(value_dim: int) -> None:
    shapes = (2, 3, 10, 8), (2, 3, 12, 8), (2, 3, 12, value_dim), (2, 3, 10, 3), (2, 3, 10, 4)
    given = tuple(torch.randn(shape, requires_grad=True) for shape in shapes)
    torch.library.opcheck(torch.ops.mmrest.attend_with_positions.default, given)
    grad = torch.randn(2, 3, 10, value_dim)
    operator = torch.ops.mmrest.attend_with_positions_backward.default
    torch.library.opcheck(operator, (grad, *(t.detach() for t in given)))
    shapes = (2, 4, 5, 3, 8), (4, 6, 8), (5, 7, 8)
    given = tuple(torch.randn(shape, requires_grad=True) for shape in shapes)
    torch.library.opcheck(torch.ops.mmrest.position_logits.default, given)
    grads = torch.randn(2, 4, 5, 3, 6), torch.randn(2, 4, 5, 3, 7)
    operator = torch.ops.mmrest.position_logits_backward.default
    torch.library.opcheck(operator, (*grads, *(t.detach() for t in given)))


def test_their_arithmetic_is_counted_as_that_of_the_literal_form() -> None:
    q, rows, columns = (torch.randn(2, 3, 20, n, requires_grad=True) for n in (8, 3, 4))
    k, v = (torch.randn(2, 3, 12, n, requires_grad=True) for n in (8, 5))
    maps = torch.randn(2, 4, 5, 3, 8, requires_grad=True)
    tables = [torch.randn(9, 8) for _ in range(2)]
    counted = []
    for implementation in ('auto', 'reference'):
        counter = FlopCounterMode(display=False)
        with counter, use_implementation(implementation):
            attention_with_positions(q, k, v, rows, columns)
            position_logits(maps, (4, 5), *tables)
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize('implementation', ['auto', 'blockwise', 'reference'])
@pytest.mark.parametrize('value_dim', [3, 8, 11])
def test_values_may_have_other_channels(implementation: str, value_dim: int) -> None:
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    v = torch.randn(2, 3, 7, value_dim)
    with use_implementation(implementation):
        out = attention(q, k, v)
    expected = (q @ k.mT / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(out, expected)


def test_values_of_too_few_keys_are_refused() -> None:
    with pytest.raises(InputError, match='value_dim'):
        attention(torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 2, 4))
