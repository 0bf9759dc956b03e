"""Every family with drawn sizes, batches, dtypes and options: does the contract hold?

``make fuzz`` tries 2,000 examples of each family, half of them in training,
``EXAMPLES=20000`` more; a few are tried in every run of the tests. hypothesis shrinks what fails.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mmrest.backbones import PyramidBackbone
from mmrest.ops.dispatch import use_implementation
from tests.backbones.families import (
    ROWS,
    assert_close,
    build,
    families,
    num_stages,
    randomize,
    subsets,
)

EXAMPLES = int(os.environ.get('MMREST_FUZZ_EXAMPLES', 4))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize='MMREST_FUZZ_EXAMPLES' not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    database=None,
)
_LARGEST = 2000
# of all images of an example together, so that it takes a fraction of a second
_PIXELS = 2**15
# so that examples have several blocks and chunks
SMALL_BLOCKS = {
    'blockwise._BLOCK_ELEMENTS': 20_000,
    'blockwise._FEWEST_QUERIES': 16,
    'blockwise._ALIGNMENT': 3,
    'cpu.mlp._CHUNK_ELEMENTS': 20_000,
    'cpu.mlp._FEWEST_TOKENS': 16,
    'strips._STRIP_ELEMENTS': 20_000,
}
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Example:
    """One thing to try."""

    height: int
    width: int
    batch: int
    dtype: torch.dtype
    channels_last: bool
    levels: int
    out_norm: str | None
    seed: int


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Any height and width from 1 to 2,000 of not too many pixels, the shorter side first."""
    batch = draw(st.integers(0, 3))
    shorter = draw(st.integers(1, math.isqrt(_PIXELS // max(batch, 1))))
    longer = draw(st.integers(1, min(_LARGEST, _PIXELS // (shorter * max(batch, 1)))))
    sides = (shorter, longer) if draw(st.booleans()) else (longer, shorter)
    return Example(
        *sides,
        batch,
        draw(st.sampled_from([torch.float32, torch.float64])),
        draw(st.booleans()),
        draw(st.integers(0, 14)),
        draw(st.sampled_from([None, 'none'])),
        draw(st.integers(0, 99)),
    )


def model_and_images(
    family: type[PyramidBackbone], example: Example
) -> tuple[PyramidBackbone, torch.Tensor]:
    torch.manual_seed(example.seed)
    levels = subsets(num_stages(family))
    options = {} if example.out_norm is None else {'out_norm': example.out_norm}
    model = build(family, out_indices=levels[example.levels % len(levels)], **options)
    model = randomize(model).to(example.dtype)
    images = torch.randn(example.batch, 3, example.height, example.width, dtype=example.dtype)
    if example.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return model, images


@families
@pytest.mark.parametrize('training', [False, True])
def test_maps_are_as_promised(
    family: type[PyramidBackbone],
    training: bool,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record_property('examples', EXAMPLES)  # for docs/scripts/write_reliability.py
    for name, elements in SMALL_BLOCKS.items():
        monkeypatch.setattr(f'mmrest.ops.{name}', elements)

    @SETTINGS
    @given(examples())
    def check(example: Example) -> None:
        model, images = model_and_images(family, example)
        model.train(training)
        if training:
            single = example.batch == 1 and ROWS[family].batch_norm
            try:
                check_training(model, images, example)
            except ValueError as error:  # a BatchNorm knows no variance of one value
                if not single or 'more than 1 value per channel' not in str(error):
                    raise
        else:
            check_inference(model, images, example)

    check()


@cache
def is_bfloat16_sound() -> bool:
    """False where torch's own convolutions in bfloat16 read what nobody wrote.

    On processors with AMX, torch 2.13 does so of maps one or two cells wide.
    """
    weight = torch.ones(32, 24, 3, 3, dtype=torch.bfloat16)
    narrow = torch.ones(2, 24, 71, 1, dtype=torch.bfloat16)
    narrow = narrow.contiguous(memory_format=torch.channels_last)
    for _ in range(20):
        for count in (2**12, 2**16, 2**18, 2**20):  # what it may read
            torch.full((count,), math.nan, dtype=torch.bfloat16)
        maps = torch.nn.functional.conv2d(narrow, weight, stride=2, padding=1)
        if not maps.isfinite().all() or maps.max() > weight[0].numel():
            return False
    return True


def check_inference(model: PyramidBackbone, images: torch.Tensor, example: Example) -> None:
    """Shapes; the same twice; a batch is its images; autocast is finite."""
    model.eval()
    with torch.no_grad():
        maps = model(images)
        require_contract(model, maps, example)
        for again, once in zip(model(images), maps, strict=True):
            assert torch.equal(again, once)
        if example.batch:
            one_by_one = zip(*(model(image[None]) for image in images), strict=True)
            expected = [torch.cat(level) for level in one_by_one]
            assert_close(list(maps), expected, _TOLERANCES[example.dtype])
        if example.dtype == torch.float32 and is_bfloat16_sound():
            with torch.autocast('cpu', torch.bfloat16):
                assert all(level.isfinite().all() for level in model(images))


def check_training(model: PyramidBackbone, images: torch.Tensor, example: Example) -> None:
    """Every trainable parameter gets the gradient that the literal form gives it."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    maps = model(images)
    require_contract(model, maps, example)
    if not example.batch:
        return
    grads = gradients(model, maps)
    model.load_state_dict(buffers, strict=False)
    with use_implementation('reference'):
        expected = gradients(model, model(images))
    if example.dtype == torch.float64:
        largest = max(grad.abs().max().item() for grad in expected)
        for name, a, b in zip(dict(model.named_parameters()), grads, expected, strict=True):
            assert (a - b).abs().max() <= 1e-8 * largest, name


def gradients(model: PyramidBackbone, maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (level * torch.randn(level.shape, generator=generator, dtype=level.dtype)).mean()
        for level in maps
    )
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads)
    return grads


def require_contract(
    model: PyramidBackbone, maps: tuple[torch.Tensor, ...], example: Example
) -> None:
    strides = [model.out_strides[i] for i in range(len(maps))]
    assert len(maps) == len(model.out_indices)
    for level, channels, stride in zip(maps, model.out_channels, strides, strict=True):
        size = (math.ceil(example.height / stride), math.ceil(example.width / stride))
        assert level.shape == (example.batch, channels, *size)
        assert level.dtype == example.dtype
        assert level.isfinite().all()
