from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmrest.errors import InputError
from mmrest.ops import (
    attention,
    attention_with_positions,
    blockwise,
    emsa,
    functional,
    linear,
    mlp,
    reference,
    use_implementation,
)

IMPLEMENTATIONS = ('reference', 'blockwise')
# the last two have keys that are filled up in blocks
SIZES = [(35, 7), (1, 5), (6, 1), (16, 16), (3, 50), (40, 3), (5, 130), (9, 62), (4, 125)]
implementations = pytest.mark.parametrize('name', IMPLEMENTATIONS)


def by(name: str, function: Callable[..., Tensor], *args: Any) -> Tensor:
    with use_implementation(name):
        return function(*args)


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


@pytest.fixture(params=[2**20, 300, 20], ids=['one block', 'some blocks', 'many blocks'])
def block_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(blockwise, '_BLOCK_ELEMENTS', request.param)
    monkeypatch.setattr(blockwise, '_FEWEST_QUERIES', 1)
    return request.param


@pytest.mark.parametrize('threads', [1, 2, 3, 16])
@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize(
    'shape', [(1, 1, 40), (1, 4, 40), (7, 1, 9), (24, 3, 16), (5, 2, 2)], ids=str
)
def test_blocks_cover_all_maps_once_and_are_shared_out_among_threads(
    shape: tuple[int, int, int],
    mixed: bool,
    threads: int,
    block_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
    q, k = torch.zeros(*shape, 4), torch.zeros(*shape[:2], 6, 4)
    maps = blockwise._AttentionMaps(q, k, torch.eye(shape[1]) if mixed else None)
    counts = torch.zeros(shape)
    groups = list(maps.groups())
    for images, heads in groups:
        assert not mixed or heads == slice(0, shape[1])
        for rows in maps.steps():
            counts[images, heads, rows] += 1
    assert torch.equal(counts, torch.ones(shape))
    together = counts[groups[0]][..., 0].numel()
    at_once = min(threads, shape[0] * shape[1], max(1, block_elements // 6))
    assert mixed or 2 * together > at_once
    elements = together * maps.steps()[0].stop * 6
    assert mixed or elements <= 2 * max(block_elements, at_once * 16 * 6)  # rows are in sixteens
    if together > threads and not mixed:
        assert together % threads == 0


@pytest.mark.parametrize(
    ('keys', 'columns'),
    [(1, 1), (15, 15), (16, 16), (62, 64), (196, 208), (200, 208), (1050, 1056)],
)
def test_rows_of_maps_are_aligned_where_that_adds_few_columns(keys: int, columns: int) -> None:
    maps = blockwise._AttentionMaps(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, keys, 4), None)
    assert maps.columns == columns


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(('queries', 'keys'), SIZES)
@implementations
@pytest.mark.usefixtures('block_elements')
def test_equals_the_literal_form_with_all_gradients(
    name: str, queries: int, keys: int, dtype: torch.dtype
) -> None:
    args = inputs(queries, keys, dtype)
    assert_same_with_gradients(by(name, emsa, *args), literal(*args), args)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(('queries', 'keys'), SIZES)
@pytest.mark.parametrize('name', [*IMPLEMENTATIONS, 'auto', 'triton'])
@pytest.mark.usefixtures('block_elements')
def test_plain_attention_equals_the_literal_form_with_all_gradients(
    name: str, queries: int, keys: int, dtype: torch.dtype
) -> None:
    args = inputs(queries, keys, dtype)[:3]
    assert_same_with_gradients(by(name, attention, *args), literal_plain(*args), args)


@pytest.mark.parametrize('name', ['auto', 'blockwise'])
def test_what_is_exported_is_made_of_torchs_operators_whatever_is_asked_for(name: str) -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return attention(q, q, q)

    with use_implementation(name):
        program = torch.export.export(Attention(), (torch.randn(1, 2, 300, 8),), strict=False)
    assert 'mmrest' not in str(program.graph)


def test_what_is_fastest_on_a_processor_equals_the_literal_form() -> None:
    # more elements than fused attention is better at
    args = [torch.randn(1, 2, 1000, 16, requires_grad=True) for _ in range(3)]
    assert_same_with_gradients(by('auto', attention, *args), literal_plain(*args), args)


@implementations
@pytest.mark.usefixtures('block_elements')
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    q, k, v, weight, bias = inputs(5, 3)
    q, k, v = (t.detach()[:1, :, :, :3].clone().requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(
        lambda *args: by(name, emsa, *args), (q, k, v, weight, bias), atol=1e-5
    )
    assert torch.autograd.gradcheck(lambda *args: by(name, attention, *args), (q, k, v))


@implementations
def test_a_map_of_a_single_element_gives_zeros(name: str) -> None:
    out = by(name, emsa, *inputs(1, 1))
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()


@implementations
def test_float32_keeps_its_digits_where_the_map_is_nearly_uniform(name: str) -> None:
    # The variance of such a map is far below 1 / M^2 and would drown in its rounding.
    q, k, v, weight, bias = (t.detach() for t in inputs(64, 4))
    args = (q * 1e-2, k, v, weight, bias)
    exact = by(name, emsa, *args)
    rounded = by(name, emsa, *(t.float() for t in args)).double()
    assert (rounded - exact).abs().max() / exact.abs().max() < 1e-4


@pytest.mark.parametrize('keys', [4, 127, 128, 1050])
def test_float32_keeps_as_many_digits_as_the_literal_form(keys: int) -> None:
    # nearly uniform, with values whose mean is large
    q, k, v, weight, bias = (t.detach() for t in inputs(64, keys))
    args = (q * 1e-2, k, v + 5, weight, bias)
    exact = literal(*args)
    lost = {
        name: (by(name, emsa, *(t.float() for t in args)) - exact).abs().max() / exact.abs().max()
        for name in IMPLEMENTATIONS
    }
    assert lost['reference'] < 1e-3
    assert lost['blockwise'] < max(1e-4, 1.5 * lost['reference'])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('amplitude', [1.0, 1e-1, 1e-2], ids=['peaked', 'flat', 'nearly uniform'])
def test_half_precision_stays_close_with_all_gradients(
    dtype: torch.dtype, amplitude: float
) -> None:
    args = [t.detach().to(dtype).double() for t in inputs(200, 150)]
    args[0] *= amplitude
    exact_args = [t.requires_grad_() for t in args]
    half_args = [t.detach().to(dtype).requires_grad_() for t in args]
    exact, out = by('blockwise', emsa, *exact_args), by('blockwise', emsa, *half_args)
    assert out.dtype == dtype
    direction = torch.randn_like(out)
    grads = torch.autograd.grad(out, half_args[:4], direction)
    exact_grads = torch.autograd.grad(exact, exact_args[:4], direction.double())
    for rounded, precise in zip([out, *grads], [exact, *exact_grads], strict=True):
        assert (rounded.double() - precise).abs().max() / precise.abs().max() < 0.05


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', [*IMPLEMENTATIONS, 'auto'])
def test_plain_attention_in_half_precision_stays_close_with_all_gradients(
    name: str, dtype: torch.dtype
) -> None:
    exact_args = [t.detach().to(dtype).double().requires_grad_() for t in inputs(200, 150)[:3]]
    half_args = [t.detach().to(dtype).requires_grad_() for t in exact_args]
    exact, out = literal_plain(*exact_args), by(name, attention, *half_args)
    direction = torch.randn_like(out)
    grads = torch.autograd.grad(out, half_args, direction)
    exact_grads = torch.autograd.grad(exact, exact_args, direction.double())
    for rounded, precise in zip([out, *grads], [exact, *exact_grads], strict=True):
        assert (rounded.double() - precise).abs().max() / precise.abs().max() < 0.05


def test_statistics_stay_in_float32_under_autocast() -> None:
    q, k, v, weight, bias = (t.detach().float() for t in inputs(64, 9))
    args = (*(t.bfloat16() for t in (q, k, v)), weight, bias)
    outside = by('blockwise', emsa, *args)
    with torch.autocast('cpu', torch.bfloat16):
        inside = by('blockwise', emsa, *args)
    assert torch.equal(inside, outside)


def test_unknown_and_impossible_implementations_are_named() -> None:
    args = inputs(4, 4)
    message = r"'fastest'.*MMREST_ATTENTION.*one of auto, reference"
    with pytest.raises(ValueError, match=message), use_implementation('fastest'):
        pass
    with pytest.raises(
        ValueError, match=r"'triton'.*(on cpu, not on a GPU|no Triton).*; take 'blockwise'"
    ):
        by('triton', emsa, *args)


def test_the_context_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def spy(*args: Any) -> Tensor:
        taken.append('blockwise')
        return blockwise.attend_blockwise(*args)

    monkeypatch.setattr(functional, 'attend_blockwise', spy)
    args = inputs(4, 4)
    by('reference', emsa, *args)
    assert not taken
    by('blockwise', emsa, *args)
    with use_implementation('reference'), use_implementation('blockwise'):
        emsa(*args)
    emsa(*args)
    assert taken == ['blockwise'] * 3


@pytest.mark.parametrize('mixed', [True, False])
def test_the_operators_are_proper(mixed: bool) -> None:
    q, k, v, weight, bias = inputs(12, 5)
    mix = (weight, bias) if mixed else (None, None)
    torch.library.opcheck(torch.ops.mmrest.attend_blockwise.default, (q, k, v, *mix, 1e-5))


@pytest.mark.parametrize('name', ['auto', 'reference', 'blockwise'])
@pytest.mark.parametrize('shape', [(0, 2, 4, 3), (1, 2, 0, 3), (1, 2, 4, 0), (1, 0, 4, 4)])
def test_nothing_attends_to_nothing(name: str, shape: tuple[int, ...]) -> None:
    """Batch, heads, queries or keys of none: as torch's own attention."""
    batch, heads, queries, keys = shape
    q = torch.rand(batch, heads, queries, 8, requires_grad=True)
    k, v = (torch.rand(batch, heads, keys, 8, requires_grad=True) for _ in range(2))
    out = by(name, attention, q, k, v)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v).nan_to_num())
    mixed = by(name, emsa, q, k, v, torch.rand(heads, heads), torch.rand(heads))
    assert mixed.shape == q.shape
    (out.sum() + mixed.sum()).backward()
    assert q.grad.shape == q.shape
    assert torch.equal(q.grad, torch.zeros_like(q))


@pytest.mark.parametrize('name', ['auto', 'reference', 'blockwise'])
@pytest.mark.parametrize(
    'change',
    [
        dict(k=(1, 2, 5, 8)),
        dict(v=(1, 2, 5, 8)),
        dict(q=(1, 3, 4, 8)),
        dict(q=(2, 2, 4, 8)),
        dict(k=(1, 2, 6, 9), v=(1, 2, 6, 9)),
        dict(q=(2, 4, 8)),
    ],
)
def test_shapes_that_do_not_go_together_are_named(name: str, change: dict) -> None:
    shapes = {**dict(q=(1, 2, 4, 8), k=(1, 2, 6, 8), v=(1, 2, 6, 8)), **change}
    tensors = [torch.rand(shape) for shape in shapes.values()]
    for call in (attention, functools.partial(emsa, mix_weight=torch.rand(2, 2))):
        with pytest.raises(InputError, match=re.escape(str(shapes['q']))):
            by(name, call, *tensors)


def test_emsa_takes_values_of_the_keys_shape_alone() -> None:
    q, k, v = (torch.rand(1, 2, 4, channels) for channels in (8, 8, 7))
    with pytest.raises(InputError, match=r'values \(1, 2, 4, 7\) must have the shape of the keys'):
        emsa(q, k, v, torch.rand(2, 2))


def test_a_mix_of_another_number_of_heads_is_named() -> None:
    tensors = [torch.rand(1, 2, 4, 8) for _ in range(3)]
    with pytest.raises(InputError, match=r'mix_weight \(3, 3\) must be \(heads, heads\)'):
        emsa(*tensors, torch.rand(3, 3))


@pytest.mark.parametrize('name', ['auto', 'blockwise'])
def test_forward_mode_sees_through(name: str) -> None:
    args = tuple(t.double() for t in inputs(12, 5)[:4])
    tangents = tuple(torch.rand_like(t) for t in args)
    expected = torch.func.jvp(lambda *a: by('reference', emsa, *a), args, tangents)[1]
    assert expected.abs().max() > 0
    found = torch.func.jvp(lambda *a: by(name, emsa, *a), args, tangents)[1]
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(args, tangents, strict=True)]
        dual = forward_ad.unpack_dual(by(name, emsa, *duals)).tangent
    torch.testing.assert_close(dual, expected)


@pytest.mark.parametrize('batch', [(), (0,), (3, 5)], ids=str)
def test_linear_and_mlp_are_those_of_torch_also_of_nothing(batch: tuple[int, ...]) -> None:
    x = torch.rand(*batch, 6, requires_grad=True)
    w1, b1, w2, b2 = torch.rand(9, 6), torch.rand(9), torch.rand(4, 9), torch.rand(4)
    torch.testing.assert_close(linear(x, w1, b1), F.linear(x, w1, b1))
    expected = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    torch.testing.assert_close(mlp(x, w1, b1, w2, b2), expected)
    torch.testing.assert_close(reference.mlp(x, w1, b1, w2, b2), expected)


def test_wrong_widths_get_torchs_own_message() -> None:
    x, weight = torch.rand(3, 5), torch.rand(9, 6)
    for call in (lambda: linear(x, weight), lambda: mlp(x, weight, None, weight.t(), None)):
        with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
            call()


def test_forward_mode_sees_through_linear_layers_and_mlps() -> None:
    x, tangent = torch.rand(3, 6), torch.rand(3, 6)
    w1, w2 = torch.rand(9, 6), torch.rand(4, 9)
    found = torch.func.jvp(lambda x: mlp(x, w1, None, w2, None), (x,), (tangent,))[1]
    expected = torch.func.jvp(lambda x: F.linear(F.gelu(x @ w1.T), w2), (x,), (tangent,))[1]
    torch.testing.assert_close(found, expected)
    found = torch.func.jvp(lambda x: linear(x, w1), (x,), (tangent,))[1]
    torch.testing.assert_close(found, tangent @ w1.T)


@pytest.mark.parametrize('name', ['blockwise', 'reference'])
def test_products_are_counted_as_torch_counts_them(name: str) -> None:
    """By hand: two products forward and four backward; a mix and its two gradients."""
    batch, heads, queries, keys, width = 2, 3, 40, 11, 5
    q = torch.randn(batch, heads, queries, width, requires_grad=True)
    k, v = (torch.randn(batch, heads, keys, width, requires_grad=True) for _ in range(2))
    mix = torch.randn(heads, heads, requires_grad=True)
    pairs = batch * heads * queries * keys
    product, mixing = 2 * pairs * width, 2 * pairs * heads
    with FlopCounterMode(display=False) as counter, use_implementation(name):
        emsa(q, k, v, mix).sum().backward()
    again = product + mixing if name == 'blockwise' else 0  # the logits are not stored
    assert counter.get_total_flops() == 6 * product + again + 3 * mixing


@pytest.mark.parametrize('name', ['reference', 'blockwise', 'auto'])
@pytest.mark.parametrize(
    'wrong',
    [
        dict(rows=(1, 2, 5, 4)),
        dict(rows=(1, 2, 1, 2)),
        dict(columns=(1, 2, 5, 3)),
        dict(columns=(2, 2, 3)),
        dict(k=(2, 1, 6, 4), v=(2, 1, 6, 4)),
        dict(v=(2, 2, 5, 4)),
    ],
)
def test_positions_that_do_not_go_with_queries_and_keys(name: str, wrong: dict[str, Any]) -> None:
    shapes = dict(
        q=(2, 2, 5, 4), k=(2, 2, 6, 4), v=(2, 2, 6, 4), rows=(2, 2, 5, 2), columns=(2, 2, 5, 3)
    )
    by(name, attention_with_positions, *map(torch.randn, shapes.values()))
    with pytest.raises(InputError, match='attention'):
        by(name, attention_with_positions, *map(torch.randn, {**shapes, **wrong}.values()))


@pytest.mark.parametrize('channels', [(5, 5), (5, 3), (3, 5), (8, 8), (18, 18)])
@pytest.mark.parametrize('biased', [False, True])
def test_channels_that_are_filled_up_change_nothing(
    channels: tuple[int, int], biased: bool
) -> None:
    q, k = (torch.randn(2, 3, n, channels[0], dtype=torch.float64) for n in (9, 7))
    v = torch.randn(2, 3, 7, channels[1], dtype=torch.float64)
    bias = torch.randn(2, 3, 9, 7, dtype=torch.float64) if biased else None
    filling = -channels[0] % 8
    expected = reference.attention(q, k, v, bias)
    torch.testing.assert_close(functional._attend_fused(q, k, v, bias, filling), expected)


@pytest.mark.parametrize('filling', [0, 1, 8])
def test_positions_and_zeros_are_further_channels(filling: int) -> None:
    q, k, v, rows, columns = (
        torch.randn(2, 3, n, c, dtype=torch.float64)
        for n, c in ((9, 5), (12, 5), (12, 5), (9, 3), (9, 4))
    )
    long_q, long_k = functional._append_positions(q, k, rows, columns, filling)
    assert long_q.shape[3] == long_k.shape[3] == 5 + 3 + 4 + filling
    expected = reference.attention_with_positions(q, k, v, rows, columns)
    torch.testing.assert_close(reference.attention(long_q, long_k, v), expected)


def test_a_gpus_kernels_are_given_channels_in_eights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any) -> Tensor:
        seen.append((q.shape[3], k.shape[3], v.shape[3]))
        return q.new_empty(*q.shape[:3], v.shape[3])

    monkeypatch.setattr(functional.F, 'scaled_dot_product_attention', spy)
    for device in ('meta', 'cpu'):
        q, k, v = (torch.empty(1, 2, 5, 29, device=device) for _ in range(3))
        bias = torch.empty(1, 2, 5, 5, device=device)
        assert attention(q, k, v, bias).shape == q.shape
    assert seen == [(32, 32, 32), (29, 29, 29)]
    seen.clear()
    args = [torch.empty(1, 2, n, c, device='meta') for n, c in ((9, 8), (12, 8), (12, 8))]
    args += [torch.empty(1, 2, 9, side, device='meta') for side in (3, 4)]
    assert attention_with_positions(*args).shape == (1, 2, 9, 8)
    assert seen == [(16, 16, 16)]


def test_a_compiled_program_gives_a_gpus_kernels_channels_in_eights() -> None:
    seen, programs = [], []

    class Run(torch.fx.Interpreter):
        def call_function(self, target: Callable, args: Any, kwargs: Any) -> Any:
            if target is F.scaled_dot_product_attention:
                seen.extend(t.shape[3] for t in args[:3])
            return super().call_function(target, args, kwargs)

    def compiler(graph: torch.fx.GraphModule, inputs: Any) -> Callable:
        programs.append(graph)
        return Run(graph).run

    def run(function: Callable, *shapes: tuple[int, int]) -> None:
        compiled = torch.compile(function, backend=compiler, dynamic=True, fullgraph=True)
        compiled(*(torch.empty(1, 2, *shape, device='meta') for shape in shapes))

    torch._dynamo.reset()
    for sides in ((3, 4), (5, 9), (2, 6)):
        keys = (math.prod(sides), 8)
        run(attention_with_positions, (9, 8), keys, keys, *((9, side) for side in sides))
    assert len(programs) == 1
    assert seen == [16, 16, 16, 24, 24, 24, 24, 24, 24]
    seen.clear()
    run(attention, (9, 18), (12, 18), (12, 18))
    assert seen == [24, 24, 24]
