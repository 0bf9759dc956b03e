"""The families under test: one row each, which all property tests read.

A new family is a row here, and its recorded outputs in ``tests/parity``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from mmrest import (
    P2T,
    PVT,
    PVTV2,
    CSWin,
    GPViT,
    GPViTAdapter,
    MViTV2,
    ResFormer,
    ResT,
    ResTV2,
    Swin,
    TwinsPCPVT,
    TwinsSVT,
)
from mmrest.backbones import PyramidBackbone


@dataclass(frozen=True)
class Row:
    """What the tests know of a family.

    Attributes:
        arch: A small variant with every head count, reduction and window of the published ones.
        tiny: A still smaller one, of two stages or blocks, for compilers.
        tiny_options: Arguments that ``tiny`` needs.
        wrong_fields: Fields of ``arch`` that must be refused by name.
        parameters: Published variant -> its million parameters with a norm and a 1000-class head;
            none where the paper states those of whole detectors alone.
        batch_norm: It has BatchNorms.
        forward_mode: All operators of torch in it have derivatives in forward mode.
        record: What the names of its recorded outputs begin with; empty where another library's
            class is what it is compared with.
        forms: Name -> arguments of further forms of ``tiny`` that must be computed alike by all
            implementations.
    """

    arch: Mapping[str, Any]
    tiny: Mapping[str, Any]
    wrong_fields: tuple[Mapping[str, Any], ...]
    record: str
    tiny_options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    batch_norm: bool = False
    forward_mode: bool = True
    forms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


STAGED = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 4, 8),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratios=(4, 4, 4, 4),
)
STAGED_TINY = dict(
    embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(4, 4)
)
STAGED_WRONG = (
    dict(depths=2),
    dict(embed_dims='8'),
    dict(embed_dims=(8.0, 16, 24, 32)),
    dict(mlp_ratios=(4, 0, 4, 4)),
    dict(mlp_ratios=(0.01, 4, 4, 4)),
    dict(sr_ratios=(8, 4, 2, 0)),
    dict(sr_ratios=(8, 4.5, 2, 1)),
    dict(depths=(1, 0, 1, 1)),
    dict(num_heads=(1, True, 4, 8)),
    dict(num_heads=(1, 2, 4, -8)),
    dict(depths=()),
    dict(depths=(1, 2)),
)
REDUCED = dict(STAGED, num_heads=(1, 2, 2, 4))
REDUCED_WRONG = (
    dict(mlp_ratios=(4, 0, 4, 4)),
    dict(mlp_ratios=(0.01, 4, 4, 4)),
    dict(mlp_ratios=(math.inf, 4, 4, 4)),
    dict(sr_ratios=(8, 4, 2, 0)),
    dict(num_heads=(1, 2, 5, 4)),
    dict(depths=(1, 2)),
)
PLAIN = dict(embed_dims=32, depth=4, num_heads=4, mlp_ratio=4)
PLAIN_TINY = dict(embed_dims=16, depth=2, num_heads=2, mlp_ratio=4)

MULTISCALE = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 2, 3, 1),
    num_heads=(1, 2, 4, 8),
    window_sizes=(8, 4, 4, 2),
    image_size=32,
)
MULTISCALE_TINY = dict(
    embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(4, 4), window_sizes=(8, 4)
)

GROUPED = dict(
    embed_dims=24,
    num_convs=2,
    depth=4,
    num_heads=4,
    group_blocks=(1,),
    num_groups=(5,),
    group_heads=2,
    image_size=32,
)
GROUPED_TINY = dict(
    embed_dims=16,
    num_convs=1,
    depth=2,
    num_heads=4,
    group_blocks=(1,),
    num_groups=(3,),
    group_heads=2,
    image_size=32,
)
GROUPED_WRONG = (
    dict(embed_dims=22),
    dict(num_heads=3),
    dict(num_groups=(5, 5)),
    dict(stripe_width=0),
    dict(mlp_ratio=0),
    dict(image_size=4),
    dict(group_blocks=(0,)),
    dict(group_blocks=(4,)),
    dict(group_blocks=(2, 2), num_groups=(5, 5)),
)

ROWS: dict[type[PyramidBackbone], Row] = {
    ResT: Row(
        arch=STAGED,
        tiny=STAGED_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=STAGED_WRONG,
        record='rest',
        parameters=dict(lite=10.51, small=13.68, base=30.33, large=51.68),
        batch_norm=True,
    ),
    ResTV2: Row(
        arch=STAGED,
        tiny=STAGED_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=STAGED_WRONG,
        record='restv2',
        parameters=dict(tiny=30.44, small=41.21, base=55.97, large=86.53),
        batch_norm=True,
    ),
    ResFormer: Row(
        arch=PLAIN,
        tiny=PLAIN_TINY,
        wrong_fields=(
            dict(depth='4'),
            dict(depth=0),
            dict(embed_dims=(32,)),
            dict(num_heads=True),
            dict(mlp_ratio=0),
            dict(mlp_ratio='4'),
        ),
        record='resformer',
        forms={'in windows': dict(arch=dict(PLAIN_TINY, depth=1), window_size=3, global_blocks=())},
    ),
    MViTV2: Row(
        arch=MULTISCALE,
        tiny=MULTISCALE_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(
            dict(window_sizes=(8, 4, 4, 0)),
            dict(window_sizes=(6, 4, 4, 2)),
            dict(widens_in='head'),
            dict(kv_stride=0),
            dict(cls_token=1),
            dict(image_size=16),
            dict(depths=(1, 2)),
        ),
        record='mvitv2',
        # with 1000 classes; the files of IN-21K have 19,168
        parameters=dict(
            tiny=24.17,
            small=34.87,
            base=51.47,
            large=217.99,
            base_cls=51.47,
            large_cls=213.63,
            huge_cls=666.88,
        ),
        forms={
            'in windows': dict(attention='windows'),
            'everywhere': dict(attention='pooling'),
            'with a class token': dict(
                attention='pooling', arch=dict(MULTISCALE_TINY, cls_token=True)
            ),
            'widened in the MLP': dict(
                attention='pooling', arch=dict(MULTISCALE_TINY, widens_in='mlp')
            ),
            'joint': dict(attention='pooling', positions='joint'),
            'both': dict(attention='pooling', positions='absolute_and_decomposed'),
            'plain': dict(
                attention='pooling',
                positions='none',
                residual_pooling=False,
                pool_every_q=False,
            ),
        },
    ),
    PVT: Row(
        arch=dict(REDUCED, image_size=32),
        tiny=dict(STAGED_TINY, image_size=16),
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(*REDUCED_WRONG, dict(image_size=16)),
        record='',
        forms={'in whole patches': dict(sizes='floor')},
    ),
    PVTV2: Row(
        arch=REDUCED,
        tiny=STAGED_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(*REDUCED_WRONG, dict(linear=1)),
        record='',
        # to the digits of timm's list of models; the paper's have one less
        parameters=dict(b0=3.67, b1=14.01, b2=25.36, b2_linear=22.55, b3=45.24, b4=62.56, b5=81.96),
        forms={'linear': dict(arch=dict(STAGED_TINY, linear=True))},
    ),
    TwinsPCPVT: Row(
        arch=REDUCED,
        tiny=STAGED_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=REDUCED_WRONG,
        record='twins_pcpvt',
        parameters=dict(small=24.11, base=43.83, large=60.99),
    ),
    TwinsSVT: Row(
        arch=dict(REDUCED, window_size=3),
        tiny=dict(STAGED_TINY, depths=(1, 2), window_size=3),
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(*REDUCED_WRONG, dict(window_size=0)),
        record='twins_svt',
        parameters=dict(small=24.06, base=56.07, large=99.27),
        forms={
            'padded': dict(windows='padded'),
            'masked': dict(windows='masked', stage_norm=False),
        },
    ),
    P2T: Row(
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 2, 1, 1),
            num_heads=(1, 2, 2, 4),
            mlp_ratios=(4, 4, 2, 2),
        ),
        tiny=dict(
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(1, 2),
            mlp_ratios=(2, 2),
            pool_ratios=((3, 5), (1, 2)),
        ),
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(
            dict(pool_ratios=((1,), (1,), (1,), (0,))),
            dict(pool_ratios=(1, 2, 3, 4)),
            dict(mlp_ratios=(4, 0, 4, 4)),
            dict(num_heads=(1, 2, 5, 4)),
            dict(depths=(1, 2)),
        ),
        record='p2t',
        parameters=dict(tiny=11.59, small=24.08, base=36.07, large=54.48),
    ),
    CSWin: Row(
        arch=dict(
            embed_dims=(8, 16, 24, 32),
            depths=(1, 2, 1, 1),
            num_heads=(2, 2, 4, 4),
            stripe_widths=(1, 2, 3, 3),
        ),
        tiny=dict(
            embed_dims=(8, 16),
            depths=(1, 1),
            num_heads=(2, 2),
            mlp_ratios=(2, 2),
            stripe_widths=(2, 2),
        ),
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(
            dict(num_heads=(1, 2, 4, 4)),
            dict(num_heads=(2, 2, 5, 4)),
            dict(stripe_widths=(1, 2, 0, 3)),
            dict(mlp_ratios=(4, 0, 4, 4)),
            dict(depths=(1, 2)),
        ),
        record='cswin',
        parameters=dict(
            tiny=22.32, small=34.64, base=77.38, large=173.26, base_384=77.38, large_384=173.26
        ),
        forms={'shorter by the stem': dict(sizes='floor')},
    ),
    Swin: Row(
        arch=dict(
            embed_dims=(8, 16, 24, 32), depths=(2, 2, 1, 2), num_heads=(1, 2, 2, 4), window_size=3
        ),
        tiny=dict(
            embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2), window_size=3
        ),
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=(
            dict(window_size=0),
            dict(num_heads=(1, 2, 5, 4)),
            dict(mlp_ratios=(4, 0, 4, 4)),
            dict(depths=(1, 2)),
        ),
        record='',
    ),
    GPViT: Row(
        arch=GROUPED,
        tiny=GROUPED_TINY,
        tiny_options=dict(out_indices=(0, 1)),
        wrong_fields=GROUPED_WRONG,
        record='gpvit',
        batch_norm=True,
        forms={'at four strides': dict(pyramid='simple', out_indices=(0, 1, 2, 3))},
    ),
    GPViTAdapter: Row(
        arch=GROUPED,
        tiny=GROUPED_TINY,
        wrong_fields=GROUPED_WRONG,
        record='gpvit_adapter',
        batch_norm=True,
        # grid_sample has none
        forward_mode=False,
    ),
}

families = pytest.mark.parametrize('family', ROWS, ids=lambda family: family.__name__)


def form(family: type[PyramidBackbone], name: str, **defaults: Any) -> type[PyramidBackbone]:
    """A family with other defaults."""

    def __init__(self: PyramidBackbone, **options: Any) -> None:
        family.__init__(self, **{**defaults, **options})

    return type(f'{family.__name__}_{name}', (family,), dict(__init__=__init__))


# What must keep a backbone's contract beside the families as they are by default, and its arch.
FORMS = {
    form(MViTV2, 'pooling', attention='pooling'): dict(MULTISCALE, cls_token=True),
    form(MViTV2, 'positions', attention='pooling', positions='absolute_and_decomposed'): dict(
        MULTISCALE, widens_in='mlp'
    ),
    form(MViTV2, 'windows', attention='windows', residual_pooling=False): MULTISCALE,
}
forms = pytest.mark.parametrize('family', [*ROWS, *FORMS], ids=lambda family: family.__name__)
Build = Callable[..., PyramidBackbone]


def build(family: type[PyramidBackbone], **options: Any) -> PyramidBackbone:
    """The small variant."""
    arch = FORMS[family] if family in FORMS else ROWS[family].arch
    return family(**{'arch': arch, 'drop_path_rate': 0.0, **options})


def build_tiny(family: type[PyramidBackbone], **options: Any) -> PyramidBackbone:
    """The still smaller one."""
    row = ROWS[family]
    return family(**{'arch': row.tiny, 'drop_path_rate': 0.0, **row.tiny_options, **options})


def num_stages(family: type[PyramidBackbone]) -> int:
    return build(family).out_indices[-1] + 1


def randomize(model: nn.Module) -> nn.Module:
    """Weights and statistics away from their initial values, so that nothing cancels."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
            assert 'running_var' not in name or (value > 0).all()
    return model


def subsets(count: int) -> list[tuple[int, ...]]:
    return [c for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]


def assert_close(
    actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-4
) -> None:
    """Close relative to each tensor's largest number."""
    for a, b in zip(actual, expected, strict=True):
        scale = max(b.abs().max().item(), 1e-2)
        torch.testing.assert_close(a / scale, b / scale, rtol=tolerance, atol=tolerance)


def step(
    model: nn.Module,
    images: torch.Tensor,
    run: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None,
) -> list[torch.Tensor]:
    """Maps and all gradients towards random directions; the model stays as it was."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    maps = (model if run is None else run)(images)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in maps]
    # maps of many elements have gradients of their own scale
    loss = sum((m * d).mean() for m, d in zip(maps, directions, strict=True))
    grads = torch.autograd.grad(loss, list(model.parameters()))
    model.load_state_dict(buffers, strict=False)  # BatchNorms have moved
    return [*(m.detach() for m in maps), *grads]
