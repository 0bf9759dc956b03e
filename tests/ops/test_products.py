from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops import MLPWeights, add_norm_mlp, attention_way, linear, mlp, products


@pytest.fixture(autouse=True, params=[False, True], ids=['slow MKL', 'fast MKL'])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as on a processor for which MKL is slow, and as on one for which it is fast."""
    for name in ('FAST_MKL', '_MKL_IN_BLOCKS'):
        monkeypatch.setattr(products, name, request.param)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * scale)


def mlp_inputs(tokens: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, MLPWeights]:
    shapes = [(8,), (8,), (24, 8), (24,), (8, 24), (8,)]
    return leaf(*tokens, 8, dtype=dtype), MLPWeights(*(leaf(*s, dtype=dtype) for s in shapes))


def literal_mlp(x: Tensor, weights: MLPWeights, kept: Tensor | None = None) -> Tensor:
    norm_weight, norm_bias, *linears = weights
    normed = F.layer_norm(x, (8,), norm_weight, norm_bias, 1e-6)
    branch = F.linear(F.gelu(F.linear(normed, *linears[:2])), *linears[2:])
    return x + branch if kept is None else x + branch * kept


@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('rows', [(1,), (3, 5), (8,), (2, 7, 9, 40)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_linear_is_that_of_torch(
    rows: tuple[int, ...], bias: bool, gelu: bool, dtype: torch.dtype
) -> None:
    x, weight = leaf(*rows, 6, dtype=dtype), leaf(10, 6, dtype=dtype)
    args = [x, weight, *([leaf(10, dtype=dtype)] if bias else [])]
    given = (*args, None)[:3]
    expected = F.gelu(F.linear(*given)) if gelu else F.linear(*given)
    actual = linear(*given, gelu=gelu)
    assert_close(actual, expected)
    direction = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(actual, args, direction),
        torch.autograd.grad(expected, args, direction),
        strict=True,
    ):
        assert_close(a, b)
    with torch.no_grad():
        assert_close(linear(*given, gelu=gelu), expected)


def test_linear_gives_no_gradient_to_what_is_frozen() -> None:
    x, weight, bias = leaf(16, 6), leaf(10, 6), leaf(10)
    weight.requires_grad_(False)
    linear(x, weight, bias).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert torch.equal(bias.grad, torch.full((10,), 16.0))


@pytest.mark.parametrize('elements', [2**20, 24 * 16], ids=['one chunk', 'several chunks'])
@pytest.mark.parametrize('drops', [False, True])
@pytest.mark.parametrize('tokens', [(1,), (2, 50), (3, 8, 16), (61,)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_mlp_is_the_literal_one_with_all_gradients(
    tokens: tuple[int, ...],
    drops: bool,
    elements: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp, '_CHUNK_ELEMENTS', elements)
    monkeypatch.setattr(mlp, '_FEWEST_TOKENS', 8)
    x, weights = mlp_inputs(tokens, dtype)
    factors = torch.arange(tokens[0], dtype=dtype).view(-1, *[1] * len(tokens))
    given = (weights, 1e-6, factors if drops else None)
    expected, actual = literal_mlp(x, weights, given[2]), add_norm_mlp(x, *given)
    assert actual.shape == x.shape
    assert_close(actual, expected)
    direction = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(actual, [x, *weights], direction),
        torch.autograd.grad(expected, [x, *weights], direction),
        strict=True,
    ):
        assert_close(a, b)
    with attention_way('reference'):
        assert_close(add_norm_mlp(x, *given), expected)
    with torch.no_grad():
        transposed = x.transpose(0, -1).clone(memory_format=torch.contiguous_format)
        for without_gradients in (x.clone(), transposed.transpose(0, -1)):
            assert_close(add_norm_mlp(without_gradients, *given), expected)


def test_nothing_is_overwritten_while_gradients_are_recorded() -> None:
    x, weights = mlp_inputs((30,), torch.float32)
    before = x.detach().clone()
    out = add_norm_mlp(x, weights, 1e-6)
    assert torch.equal(x, before)
    assert_close(out, literal_mlp(x, weights))


def test_the_operators_are_proper() -> None:
    x, weights = mlp_inputs((30,), torch.float32)
    for factors in (None, torch.rand(30, 1)):
        args = (x, *weights, factors, 1e-6)
        torch.library.opcheck(torch.ops.mmrest.add_norm_mlp.default, args)
    args = (x, weights.fc1_weight, weights.fc1_bias, False)
    torch.library.opcheck(torch.ops.mmrest.linear.default, args)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('count', [1, 7, 64])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('threads', [1, 2])
def test_products_of_heads_are_those_of_torch(
    threads: int,
    batch: int,
    count: int,
    heads: int,
    given: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    rows = torch.randn(batch, count, heads, 8, dtype=dtype)
    matrices = torch.randn(batch, heads, 5, 8, dtype=dtype)
    memory = torch.empty(batch, count, heads, 5, dtype=dtype) if given else None
    product = products.multiply(rows, matrices, memory)
    assert_close(product, torch.einsum('bnhc,bhmc->bnhm', rows, matrices))
    # some of the heads, whose rows have gaps between them
    part = products.multiply(rows[:, :, heads // 2 :], matrices[:, heads // 2 :])
    assert_close(part, product[:, :, heads // 2 :])
    total = torch.ones(batch, heads, 8, 5, dtype=dtype)
    products.add_products(total, product, rows)
    assert_close(total, 1 + torch.einsum('bnhm,bnhc->bhcm', product, rows))


@pytest.mark.parametrize(
    ('length', 'about', 'step'), [(7, 64, 16), (1050, 1024, 1056), (96, 60, 48)]
)
def test_steps_are_even(length: int, about: int, step: int) -> None:
    assert products.even_step(length, about) == step
