"""The Triton kernels on a processor; ``test_emsa.py`` runs this with TRITON_INTERPRET=1.

A module of its own, since Triton decides when it is imported whether it compiles or interprets.
"""

from __future__ import annotations

import pytest
import torch

from mmrest.ops import emsa, use_implementation
from mmrest.ops.triton.emsa import why_not_triton


# heads, queries, keys, channels of a head: several blocks and steps, odd sizes, one of each
@pytest.mark.parametrize(
    'shape',
    [(2, 70, 70, 8), (4, 40, 33, 12), (8, 17, 50, 16), (3, 20, 20, 24), (2, 1, 5, 8), (2, 9, 1, 8)],
    ids=str,
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_equals_the_reference_with_all_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    heads, queries, keys, width = shape
    sizes = [(2, heads, n, width) for n in (queries, keys, keys)] + [(heads, heads), (heads,)]
    args = [torch.randn(size).to(dtype).double().requires_grad_() for size in sizes]
    given = [t.detach().to(dtype if i < 3 else torch.float32) for i, t in enumerate(args)]
    given = [t.requires_grad_() for t in given]
    assert not why_not_triton(given[0], given[2])
    with use_implementation('reference'):
        expected = emsa(*args)
    with use_implementation('triton'):
        actual = emsa(*given)
    assert actual.dtype == dtype
    direction = torch.randn_like(actual)
    expected_grads = torch.autograd.grad(expected, args, direction.double())
    grads = torch.autograd.grad(actual, given, direction)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert not grads[-1].any()
    for a, b in zip([actual, *grads[:-1]], [expected, *expected_grads[:-1]], strict=True):
        # with a single key all is 0 but for rounding, times up to eps^-1/2
        scale = max(b.abs().max().item(), 1.0 if keys > 1 else 1e-5**-0.5)
        assert (a.double() - b).abs().max().item() / scale < tolerance


def test_keeps_its_digits_where_the_map_is_nearly_uniform() -> None:
    args = [torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (64, 40, 40)]
    args += [torch.randn(2, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)]
    args[0] *= 1e-2
    with use_implementation('reference'):
        exact = emsa(*args)
    with use_implementation('triton'):
        rounded = emsa(*(t.float() for t in args)).double()
    assert float((rounded - exact).abs().max() / exact.abs().max()) < 1e-4


def test_the_operator_is_proper() -> None:
    q, k, v = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (20, 9, 9))
    mix = torch.randn(2, 2, requires_grad=True), torch.randn(2, requires_grad=True)
    torch.library.opcheck(torch.ops.mmrest.attend_by_triton.default, (q, k, v, *mix, 1e-5))
