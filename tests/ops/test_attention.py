from __future__ import annotations

import functools
import re
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from mmrest.errors import InputError
from mmrest.ops import attention, attention_way, blockwise, emsa

WAYS = ('reference', 'blockwise')
SIZES = [(35, 7), (1, 5), (6, 1), (16, 16), (3, 50), (40, 3)]
ways = pytest.mark.parametrize('way', WAYS)


def literal(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Eq. 4 as it is written, with the whole attention map."""
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    mixed = torch.einsum('gh,bhnm->bgnm', weight, logits) + bias[:, None, None]
    return F.instance_norm(mixed.softmax(-1), eps=eps) @ v


def literal_plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def inputs(queries: int, keys: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [(2, 4, queries, 8), (2, 4, keys, 8), (2, 4, keys, 8), (4, 4), (4,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def assert_same_with_gradients(actual: Tensor, expected: Tensor, args: list[Tensor]) -> None:
    """Outputs and gradients; float32 is compared with float64's values."""
    exact = actual.dtype == torch.float64
    tolerance = dict(rtol=1e-9, atol=1e-9) if exact else dict(rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual, expected, **tolerance)
    direction = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, args, direction)
    actual_grads = torch.autograd.grad(actual, args, direction)
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        scale = float(expected_grad.abs().max()) if not exact else 1.0
        tolerance['atol'] = (1e-8 if exact else 1e-4) * max(scale, 1.0)
        torch.testing.assert_close(actual_grad, expected_grad, **tolerance)


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several threads products take another way."""
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)


@pytest.fixture(params=[2**20, 300, 20], ids=['one block', 'some blocks', 'many blocks'])
def block_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blockwise, '_BLOCK_ELEMENTS', request.param)
    monkeypatch.setattr(blockwise, '_FEWEST_QUERIES', 1)
    return request.param


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(('queries', 'keys'), SIZES)
@ways
@pytest.mark.usefixtures('block_elements')
def test_equals_the_literal_form_with_all_gradients(
    way: str, queries: int, keys: int, dtype: torch.dtype
) -> None:
    args = inputs(queries, keys, dtype)
    assert_same_with_gradients(emsa(*args, way=way), literal(*args), args)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(('queries', 'keys'), SIZES)
@pytest.mark.parametrize('way', [*WAYS, 'auto', 'triton'])
@pytest.mark.usefixtures('block_elements')
def test_plain_attention_equals_the_literal_form_with_all_gradients(
    way: str, queries: int, keys: int, dtype: torch.dtype
) -> None:
    args = inputs(queries, keys, dtype)[:3]
    assert_same_with_gradients(attention(*args, way=way), literal_plain(*args), args)


def test_the_way_that_is_fastest_on_a_processor_equals_the_literal_form() -> None:
    # more elements than fused attention is better at
    args = [torch.randn(1, 2, 1000, 16, requires_grad=True) for _ in range(3)]
    assert_same_with_gradients(attention(*args, way='auto'), literal_plain(*args), args)


@ways
@pytest.mark.usefixtures('block_elements')
def test_gradients_are_those_of_finite_differences(way: str) -> None:
    q, k, v, weight, bias = inputs(5, 3)
    q, k, v = (t.detach()[:1, :, :, :3].clone().requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(
        lambda *args: emsa(*args, way=way), (q, k, v, weight, bias), atol=1e-5
    )
    assert torch.autograd.gradcheck(lambda *args: attention(*args, way=way), (q, k, v))


@ways
def test_a_map_of_a_single_element_gives_zeros(way: str) -> None:
    out = emsa(*inputs(1, 1), way=way)
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()


@ways
def test_float32_keeps_its_digits_where_the_map_is_nearly_uniform(way: str) -> None:
    # The variance of such a map is far below 1 / M^2 and would drown in its rounding.
    q, k, v, weight, bias = (t.detach() for t in inputs(64, 4))
    args = (q * 1e-2, k, v, weight, bias)
    exact = emsa(*args, way=way)
    rounded = emsa(*(t.float() for t in args), way=way).double()
    assert (rounded - exact).abs().max() / exact.abs().max() < 1e-4


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('amplitude', [1.0, 1e-1], ids=['peaked', 'nearly uniform'])
def test_half_precision_stays_close_with_all_gradients(
    dtype: torch.dtype, amplitude: float
) -> None:
    args = [t.detach().to(dtype).double() for t in inputs(200, 150)]
    args[0] *= amplitude
    exact_args = [t.requires_grad_() for t in args]
    half_args = [t.detach().to(dtype).requires_grad_() for t in args]
    exact, out = emsa(*exact_args, way='blockwise'), emsa(*half_args, way='blockwise')
    assert out.dtype == dtype
    direction = torch.randn_like(out)
    grads = torch.autograd.grad(out, half_args[:4], direction)
    exact_grads = torch.autograd.grad(exact, exact_args[:4], direction.double())
    for rounded, precise in zip([out, *grads], [exact, *exact_grads], strict=True):
        assert (rounded.double() - precise).abs().max() / precise.abs().max() < 0.05


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('way', [*WAYS, 'auto'])
def test_plain_attention_in_half_precision_stays_close_with_all_gradients(
    way: str, dtype: torch.dtype
) -> None:
    exact_args = [t.detach().to(dtype).double().requires_grad_() for t in inputs(200, 150)[:3]]
    half_args = [t.detach().to(dtype).requires_grad_() for t in exact_args]
    exact, out = literal_plain(*exact_args), attention(*half_args, way=way)
    direction = torch.randn_like(out)
    grads = torch.autograd.grad(out, half_args, direction)
    exact_grads = torch.autograd.grad(exact, exact_args, direction.double())
    for rounded, precise in zip([out, *grads], [exact, *exact_grads], strict=True):
        assert (rounded.double() - precise).abs().max() / precise.abs().max() < 0.05


def test_statistics_stay_in_float32_under_autocast() -> None:
    q, k, v, weight, bias = (t.detach().float() for t in inputs(64, 9))
    args = (*(t.bfloat16() for t in (q, k, v)), weight, bias)
    outside = emsa(*args, way='blockwise')
    with torch.autocast('cpu', torch.bfloat16):
        inside = emsa(*args, way='blockwise')
    assert torch.equal(inside, outside)


def test_dropout_falls_back_to_the_reference_and_says_so() -> None:
    args = inputs(40, 30)
    with pytest.warns(UserWarning, match='needs the stored attention map'):
        dropped = emsa(*args, dropout=0.5)
    assert not torch.allclose(dropped, emsa(*args))
    torch.manual_seed(0)
    mean = torch.stack([emsa(*args, dropout=0.1, way='reference') for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, literal(*args), rtol=0, atol=0.6)


def test_unknown_and_impossible_ways_are_named() -> None:
    args = inputs(4, 4)
    with pytest.raises(ValueError, match=r"'fastest'.*MMREST_ATTENTION.*one of auto, reference"):
        emsa(*args, way='fastest')
    with pytest.raises(ValueError, match='is unknown'), attention_way('quick'):
        pass
    with pytest.raises(ValueError, match=r"'triton'.*take 'blockwise'"):
        emsa(*args, way='triton')


def test_the_context_decides_where_the_argument_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def spy(*args: Any) -> Tensor:
        taken.append('blockwise')
        return blockwise.attend_blockwise(*args)

    # the package's attribute of that name is the function
    monkeypatch.setattr(sys.modules['mmrest.ops.attention'], 'attend_blockwise', spy)
    args = inputs(4, 4)
    with attention_way('reference'):
        emsa(*args)
        assert not taken
        emsa(*args, way='blockwise')
    emsa(*args)
    assert taken == ['blockwise'] * 2


@pytest.mark.parametrize('mixed', [True, False])
def test_the_operators_are_proper(mixed: bool) -> None:
    q, k, v, weight, bias = inputs(12, 5)
    mix = (weight, bias) if mixed else (None, None)
    torch.library.opcheck(torch.ops.mmrest.attend_blockwise.default, (q, k, v, *mix, 1e-5))


@pytest.mark.parametrize('way', ['auto', 'reference', 'blockwise'])
@pytest.mark.parametrize('shape', [(0, 2, 4, 3), (1, 2, 0, 3), (1, 2, 4, 0), (1, 0, 4, 4)])
def test_nothing_attends_to_nothing(way: str, shape: tuple[int, ...]) -> None:
    """Batch, heads, queries or keys of none: as torch's own attention."""
    batch, heads, queries, keys = shape
    q = torch.rand(batch, heads, queries, 8, requires_grad=True)
    k, v = (torch.rand(batch, heads, keys, 8, requires_grad=True) for _ in range(2))
    out = attention(q, k, v, way=way)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v).nan_to_num())
    mixed = emsa(q, k, v, torch.rand(heads, heads), torch.rand(heads), way=way)
    assert mixed.shape == q.shape
    (out.sum() + mixed.sum()).backward()
    assert q.grad.shape == q.shape
    assert torch.equal(q.grad, torch.zeros_like(q))


@pytest.mark.parametrize('way', ['auto', 'reference', 'blockwise'])
@pytest.mark.parametrize(
    'change',
    [
        dict(k=(1, 2, 5, 8)),
        dict(v=(1, 2, 6, 7)),
        dict(q=(1, 3, 4, 8)),
        dict(q=(2, 2, 4, 8)),
        dict(k=(1, 2, 6, 9), v=(1, 2, 6, 9)),
        dict(q=(2, 4, 8)),
    ],
)
def test_shapes_that_do_not_go_together_are_named(way: str, change: dict) -> None:
    shapes = {**dict(q=(1, 2, 4, 8), k=(1, 2, 6, 8), v=(1, 2, 6, 8)), **change}
    tensors = [torch.rand(shape) for shape in shapes.values()]
    for call in (attention, functools.partial(emsa, mix_weight=torch.rand(2, 2))):
        with pytest.raises(InputError, match=re.escape(str(shapes['q']))):
            call(*tensors, way=way)


def test_a_mix_of_another_number_of_heads_is_named() -> None:
    tensors = [torch.rand(1, 2, 4, 8) for _ in range(3)]
    with pytest.raises(InputError, match=r'mix_weight \(3, 3\) must be \(heads, heads\)'):
        emsa(*tensors, torch.rand(3, 3))


@pytest.mark.parametrize('way', ['auto', 'blockwise'])
def test_forward_mode_sees_through(way: str) -> None:
    args = tuple(t.double() for t in inputs(12, 5)[:4])
    tangents = tuple(torch.rand_like(t) for t in args)
    expected = torch.func.jvp(lambda *a: emsa(*a, way='reference'), args, tangents)[1]
    assert expected.abs().max() > 0
    found = torch.func.jvp(lambda *a: emsa(*a, way=way), args, tangents)[1]
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(args, tangents, strict=True)]
        dual = forward_ad.unpack_dual(emsa(*duals, way=way)).tangent
    torch.testing.assert_close(dual, expected)
