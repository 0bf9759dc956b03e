from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops import attention, emsa


def literal(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Eq. 4 as it is written, with the whole attention map."""
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    mixed = torch.einsum('gh,bhnm->bgnm', weight, logits) + bias[:, None, None]
    return F.instance_norm(mixed.softmax(-1), eps=eps) @ v


def inputs(queries: int, keys: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [(2, 4, queries, 8), (2, 4, keys, 8), (2, 4, keys, 8), (4, 4), (4,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.fixture(params=[2**20, 100], ids=['one block', 'many blocks'])
def block_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(attention, '_BLOCK_ELEMENTS', request.param)
    return request.param


@pytest.mark.parametrize(('queries', 'keys'), [(35, 7), (1, 5), (6, 1), (16, 16), (3, 50)])
@pytest.mark.usefixtures('block_elements')
def test_equals_the_literal_form_with_all_gradients(queries: int, keys: int) -> None:
    args = inputs(queries, keys)
    expected, actual = literal(*args), emsa(*args)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, args, direction)
    actual_grads = torch.autograd.grad(actual, args, direction)
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures('block_elements')
def test_gradients_are_those_of_finite_differences() -> None:
    q, k, v, weight, bias = inputs(5, 3)
    q, k, v = (t.detach()[:1, :, :, :3].clone().requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(emsa, (q, k, v, weight, bias), atol=1e-5)


def test_a_map_of_a_single_element_gives_zeros() -> None:
    out = emsa(*inputs(1, 1))
    assert torch.equal(out, torch.zeros_like(out))


def test_without_head_mixing_it_is_plain_attention() -> None:
    q, k, v, *_ = inputs(9, 4)
    expected = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
    torch.testing.assert_close(emsa(q, k, v), expected)


def test_float32_keeps_its_digits_where_the_map_is_nearly_uniform() -> None:
    # The variance of such a map is far below 1 / M^2 and would drown in its rounding.
    q, k, v, weight, bias = (t.detach() for t in inputs(64, 4))
    args = (q * 1e-2, k, v, weight, bias)
    exact = emsa(*args)
    rounded = emsa(*(t.float() for t in args)).double()
    assert (rounded - exact).abs().max() / exact.abs().max() < 1e-4


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    args = [t.detach() for t in inputs(40, 10)]
    exact = emsa(*args)
    out = emsa(*(t.to(dtype) for t in args))
    assert out.dtype == dtype
    assert (out.double() - exact).abs().max() / exact.abs().max() < 0.1
