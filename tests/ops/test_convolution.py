from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmrest.ops import conv_tokens


@pytest.mark.parametrize('size', [(5, 5), (8, 11)], ids=str)
@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding', 'groups', 'channels'),
    [(3, 1, 1, 4, 4), (3, 1, 1, 4, 16), (5, 4, 2, 4, 4), (3, 2, 1, 1, 6)],
)
@pytest.mark.parametrize('frozen', [None, 0, 1, 2])
def test_the_operator_of_a_compiled_graph_is_that_of_torch(
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    groups: int,
    channels: int,
    frozen: int | None,
) -> None:
    x = torch.randn(2, *size, 4, dtype=torch.double)
    weight = torch.randn(channels, 4 // groups, kernel, kernel, dtype=torch.double)
    given = [x, weight, torch.randn(channels, dtype=torch.double)]
    wanted = [t.requires_grad_(i != frozen) for i, t in enumerate(given) if i != frozen]
    options = (stride, padding, groups)
    operator = torch.ops.mmrest.conv_tokens
    if frozen is None and size == (5, 5):
        torch.library.opcheck(operator, (*given, *options))
    out, expected = operator(*given, *options), conv_tokens(*given, *options)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    for actual, exact in zip(
        torch.autograd.grad(out, wanted, direction),
        torch.autograd.grad(expected, wanted, direction),
        strict=True,
    ):
        torch.testing.assert_close(actual, exact)


def test_the_operators_arithmetic_is_counted() -> None:
    x = torch.randn(1, 8, 8, 4, requires_grad=True)
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    counts = []
    for convolve in (conv_tokens, torch.ops.mmrest.conv_tokens):
        with FlopCounterMode(display=False) as counter:
            convolve(x, weight, None, 2, 1, 1).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 16 * 6 * 36
