"""What happens on another device than the processor, followed on the meta device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmrest.backbones import ResT
from mmrest.ops import use_implementation
from mmrest.ops.cpu import matmul
from tests.backbones.families import build_tiny
from tests.backbones.test_implementations import build, cases


class Watch(TorchDispatchMode):
    """Counts operators, and notes those between the processor and another device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.copies: set[str] = set()

    def __torch_dispatch__(
        self,
        function: Callable,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls[str(function)] += 1
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if len({x.device.type for x in tensors}) > 1:
            self.copies.add(str(function))
        return result


@pytest.mark.parametrize('implementation', ['auto', 'blockwise'])
@cases
def test_no_step_waits_for_the_processor(case: str, implementation: str) -> None:
    """A copy from the processor waits for a GPU, and cannot be part of a CUDA graph."""
    model = build(case).train().to('meta')
    images = torch.empty(2, 3, 65, 97, device='meta')
    with use_implementation(implementation), Watch() as watch:
        sum(level.float().mean() for level in model(images)).backward()
    assert watch.calls
    assert not watch.copies
    for name, parameter in model.named_parameters():
        assert parameter.grad.device.type == 'meta', name


def test_valid_sizes_do_not_wait_for_the_processor() -> None:
    model = build_tiny(ResT).train().to('meta')
    images = torch.empty(3, 3, 65, 97, device='meta')
    with model.valid_sizes([(65, 90), (33, 97), (65, 90)]), Watch() as watch:
        sum(level.mean() for level in model(images)).backward()
    assert watch.calls
    assert not watch.copies


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_products_in_blocks_are_as_many_launches_for_any_batch(dtype: torch.dtype) -> None:
    def launches(batch: int, heads: int) -> int:
        shapes = dict(rows=(5, 4), matrices=(7, 4), maps=(5, 7), total=(7, 4))
        like = dict(dtype=dtype, device='meta')
        t = {name: torch.empty(batch, heads, *shape, **like) for name, shape in shapes.items()}
        in_float32 = torch.empty(batch, heads, 5, 7, device='meta')
        with Watch() as watch:
            product = matmul.multiply(t['rows'], t['matrices'], in_float32)
            assert product.shape == in_float32.shape
            for is_first in (True, False):
                matmul.add_products(t['total'].float(), t['maps'], t['rows'], is_first)
        return watch.calls.total()

    assert launches(1, 1) == launches(6, 8)
