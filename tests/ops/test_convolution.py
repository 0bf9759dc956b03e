from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmrest.ops import attention_way, conv_tokens, convolution, strided_conv


@pytest.mark.parametrize('elements', [2**20, 5 * 9 * 16], ids=['one chunk', 'several chunks'])
@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize('size', [(1, 1), (8, 8), (9, 13), (12, 7)], ids=str)
@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding'), [(3, 2, 1), (3, 1, 1), (4, 4, 0), (5, 3, 2)]
)
@pytest.mark.parametrize('bias', [False, True])
def test_it_is_that_of_torch_with_all_gradients(
    elements: int,
    layout: torch.memory_format,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    bias: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolution, '_CHUNK_ELEMENTS', elements)
    if min(size) + 2 * padding < kernel:
        size = (kernel, kernel + 1)
    x = torch.randn(2, 16, *size).contiguous(memory_format=layout).requires_grad_()
    given = [x, torch.randn(6, 16, kernel, kernel, requires_grad=True)]
    if bias:
        given.append(torch.randn(6, requires_grad=True))
    args = (*given, None)[:3]
    out = strided_conv(*args, stride, padding)
    exact = [t.detach().double().requires_grad_() for t in given]
    expected = F.conv2d(*(*exact, None)[:3], stride, padding)
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)
    direction = torch.randn_like(out)
    for actual, wanted in zip(
        torch.autograd.grad(out, given, direction),
        torch.autograd.grad(expected, exact, direction.double()),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('frozen', [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    given = [torch.randn(1, 16, 9, 9), torch.randn(6, 16, 3, 3), torch.randn(6)]
    for index, tensor in enumerate(given):
        tensor.requires_grad_(index != frozen)
    strided_conv(*given, 2, 1).sum().backward()
    assert [tensor.grad is None for tensor in given] == [index == frozen for index in range(3)]


def test_the_reference_is_torchs_own() -> None:
    x, weight = torch.randn(1, 16, 9, 9), torch.randn(6, 16, 3, 3, requires_grad=True)
    ours = strided_conv(x, weight, None, 2, 1).grad_fn
    with attention_way('reference'):
        torchs = strided_conv(x, weight, None, 2, 1).grad_fn
    assert torchs.name() == 'ConvolutionBackward0'
    if convolution.prefers_onednn(x):
        assert ours.name() != torchs.name()


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
