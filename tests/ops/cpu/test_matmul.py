from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmrest.ops import linear, mlp, normalized_mlp, use_implementation
from mmrest.ops.cpu import matmul
from mmrest.ops.cpu import mlp as chunked


@pytest.fixture(autouse=True, params=[False, True], ids=['slow MKL', 'fast MKL'])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as on a processor for which MKL is slow, and as on one for which it is fast."""
    for name in ('FAST_MKL', '_MKL_IN_BLOCKS'):
        monkeypatch.setattr(matmul, name, request.param)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * scale)


def mlp_inputs(tokens: tuple[int, ...], bias: bool, dtype: torch.dtype) -> list[Tensor | None]:
    fc1, fc2 = leaf(24, 8, dtype=dtype), leaf(6, 24, dtype=dtype)
    biases = (leaf(24, dtype=dtype), leaf(6, dtype=dtype)) if bias else (None, None)
    return [leaf(*tokens, 8, dtype=dtype), fc1, biases[0], fc2, biases[1]]


def literal_mlp(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('rows', [(1,), (3, 5), (8,), (2, 7, 9, 40)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_linear_is_that_of_torch(rows: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    x, weight = leaf(*rows, 6, dtype=dtype), leaf(10, 6, dtype=dtype)
    args = [x, weight, *([leaf(10, dtype=dtype)] if bias else [])]
    given = (*args, None)[:3]
    expected = F.linear(*given)
    actual = linear(*given)
    assert_close(actual, expected)
    direction = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(actual, args, direction),
        torch.autograd.grad(expected, args, direction),
        strict=True,
    ):
        assert_close(a, b)
    with torch.no_grad():
        assert_close(linear(*given), expected)


def test_linear_gives_no_gradient_to_what_is_frozen() -> None:
    x, weight, bias = leaf(16, 6), leaf(10, 6), leaf(10)
    weight.requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert torch.equal(bias.grad, torch.full((10,), 16.0))


@pytest.mark.parametrize('elements', [2**20, 24 * 16], ids=['one chunk', 'several chunks'])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('tokens', [(1,), (2, 50), (3, 8, 16), (61,)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_mlp_is_the_literal_one_with_all_gradients(
    tokens: tuple[int, ...],
    bias: bool,
    elements: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, '_CHUNK_ELEMENTS', elements)
    monkeypatch.setattr(chunked, '_FEWEST_TOKENS', 8)
    given = mlp_inputs(tokens, bias, dtype)
    before = given[0].detach().clone()
    expected, actual = literal_mlp(*given), mlp(*given)
    assert actual.shape == (*tokens, 6)
    assert_close(actual, expected)
    direction = torch.randn_like(expected)
    wanted = [t for t in given if t is not None]
    for a, b in zip(
        torch.autograd.grad(actual, wanted, direction),
        torch.autograd.grad(expected, wanted, direction),
        strict=True,
    ):
        assert_close(a, b)
    with use_implementation('reference'):
        assert_close(mlp(*given), expected)
    with torch.no_grad():
        assert_close(mlp(*given), expected)
        apart = given[0].transpose(0, -1).clone(memory_format=torch.contiguous_format)
        assert_close(mlp(apart.transpose(0, -1), *given[1:]), expected)
    assert torch.equal(given[0], before)


@pytest.mark.parametrize('elements', [2**20, 24 * 16], ids=['one chunk', 'several chunks'])
@pytest.mark.parametrize('affine', ['weight and bias', 'weight', 'neither'])
@pytest.mark.parametrize('frozen', [(), (0,), (1, 2), (0, 3, 4, 5), (3, 5), (1, 2, 3, 4, 5, 6)])
@pytest.mark.parametrize('tokens', [(1,), (3, 8, 16), (61,)], ids=str)
def test_an_mlp_behind_a_norm_is_the_literal_one_with_all_gradients(
    tokens: tuple[int, ...],
    frozen: tuple[int, ...],
    affine: str,
    elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, '_CHUNK_ELEMENTS', elements)
    monkeypatch.setattr(chunked, '_FEWEST_TOKENS', 8)
    x, *weights = mlp_inputs(tokens, True, torch.float32)
    norm = [leaf(8) if 'weight' in affine else None, leaf(8) if 'bias' in affine else None]
    given = [x, *norm, *weights]
    for i in frozen:
        if given[i] is not None:
            given[i].requires_grad_(False)
    exact = [None if t is None else t.detach().double() for t in given]
    needed = []
    for tensor, twin in zip(given, exact, strict=True):
        if tensor is not None and tensor.requires_grad:
            needed.append((tensor, twin.requires_grad_()))
    actual = normalized_mlp(*given[:3], 1e-3, *given[3:])
    # by the definition of a LayerNorm
    centred = exact[0] - exact[0].mean(-1, keepdim=True)
    normalized = centred * (centred.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    normalized = normalized * (1 if exact[1] is None else exact[1])
    normalized = normalized + (0 if exact[2] is None else exact[2])
    expected = literal_mlp(normalized, *exact[3:])
    assert_close(actual.double(), expected)
    direction = torch.randn_like(actual)
    for a, b in zip(
        torch.autograd.grad(actual, [t for t, _ in needed], direction),
        torch.autograd.grad(expected, [t for _, t in needed], direction.double()),
        strict=True,
    ):
        assert_close(a.double(), b)


@pytest.mark.parametrize('frozen', range(6))
def test_mlp_gives_no_gradient_to_what_is_frozen(frozen: int) -> None:
    """Of all but one, and of all weights."""
    given = mlp_inputs((30,), True, torch.float32)
    free = [i for i in range(5) if i != frozen] if frozen < 5 else [0]
    for i, tensor in enumerate(given):
        tensor.requires_grad_(i in free)
    mlp(*given).sum().backward()
    assert [i for i, t in enumerate(given) if t.grad is not None] == free
    exact = [t.detach().requires_grad_(i in free) for i, t in enumerate(given)]
    literal_mlp(*exact).sum().backward()
    for i in free:
        assert_close(given[i].grad, exact[i].grad)


def test_the_operators_are_proper() -> None:
    for bias in (False, True):
        given = mlp_inputs((30,), bias, torch.float32)
        norm = (leaf(8), leaf(8), 1e-5) if bias else (None, None, None)
        torch.library.opcheck(torch.ops.mmrest.mlp.default, (*given, *norm))
        torch.library.opcheck(torch.ops.mmrest.linear.default, given[:3])


def test_the_operators_arithmetic_is_counted() -> None:
    """As that of torch's linear layers; the backward pass computes fc1 again."""
    given = mlp_inputs((30,), True, torch.float32)
    layer1, layer2 = 2 * 30 * 24 * 8, 2 * 30 * 24 * 6
    for compute, expected in (
        (lambda: torch.ops.mmrest.mlp(*given, *[None] * 3), 3 * (layer1 + layer2) + layer1),
        (lambda: torch.ops.mmrest.linear(*given[:3]), 3 * layer1),
    ):
        with FlopCounterMode(display=False) as counter:
            compute().sum().backward()
        assert counter.get_total_flops() == expected


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('count', [1, 7, 64])
@pytest.mark.parametrize('batch', [1, 2])
def test_products_of_heads_are_those_of_torch(
    batch: int,
    count: int,
    heads: int,
    given: bool,
    dtype: torch.dtype,
) -> None:
    # in the layout of tokens: a head's rows have gaps between them
    rows = torch.randn(batch, count, heads, 8, dtype=dtype).transpose(1, 2)
    matrices = torch.randn(batch, heads, 5, 8, dtype=dtype)
    memory = torch.empty(batch, heads, count, 5, dtype=dtype) if given else None
    product = matmul.multiply(rows, matrices, memory)
    assert_close(product, torch.einsum('bhnc,bhmc->bhnm', rows, matrices))
    part = matmul.multiply(rows[:, heads // 2 :], matrices[:, heads // 2 :])
    assert_close(part, product[:, heads // 2 :])
    total = torch.full((batch, heads, 5, 8), torch.nan, dtype=dtype)
    once = torch.einsum('bhnm,bhnc->bhmc', product, rows)
    matmul.add_products(total, product, rows, is_first=True)
    assert_close(total, once)
    matmul.add_products(total, product, rows, is_first=False)
    assert_close(total, 2 * once)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('layout', ['in order', 'transposed'])
def test_products_of_matrices_are_those_of_torch(layout: str, dtype: torch.dtype) -> None:
    def matrix(rows: int, columns: int) -> Tensor:
        if layout == 'transposed':
            return torch.randn(columns, rows, dtype=dtype).t()
        return torch.randn(rows, columns, dtype=dtype)

    a, b, memory = matrix(9, 5), matrix(5, 7), matrix(9, 7)
    expected = torch.einsum('nc,cm->nm', a, b)
    assert_close(matmul.multiply_matrices(a, b), expected)
    matmul.multiply_matrices(a, b, memory)
    assert_close(memory, expected)
    matmul.add_matrix_product(memory, a, b)
    assert_close(memory, 2 * expected)


def test_mixed_maps_are_sums_of_all_heads() -> None:
    weights, maps = torch.randn(2, 3, 3), torch.randn(2, 3, 5, 7)
    mixed = matmul.mix_heads(weights, maps, torch.empty_like(maps))
    assert_close(mixed, torch.einsum('bgh,bhnm->bgnm', weights, maps))


@pytest.mark.parametrize(
    ('length', 'about', 'step'), [(7, 64, 16), (1050, 1024, 1056), (96, 60, 48)]
)
def test_steps_are_even(length: int, about: int, step: int) -> None:
    assert matmul.even_step(length, about) == step
