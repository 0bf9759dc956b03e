"""Every published model computes what the authors' code computes, read from its own file layout."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrest import P2T, CSWin, MViTV2, ResFormer, TwinsPCPVT, TwinsSVT
from mmrest.backbones import PyramidBackbone
from mmrest.checkpoints import load_pretrained
from tests.backbones.families import ROWS
from tests.parity import recorded

# those whose outputs are recorded in one form have no test of their own
READ_IN_SEVERAL_WAYS = TwinsPCPVT, TwinsSVT, P2T, CSWin
OTHERS = ResFormer, MViTV2, *READ_IN_SEVERAL_WAYS
STAGED = {row.record: f for f, row in ROWS.items() if row.record and f not in OTHERS}


# images of at most so many pixels
SMALL, ALL = 10_000, math.inf


def tiers(variants: Iterable[str], *others: Iterable[str]) -> list:
    """A family's first variant on small images in every run, all in ``make test-all``."""
    first, *_ = variants
    return [
        pytest.param(*case, pixels, marks=_marks(case[0], pixels))
        for case in itertools.product(variants, *others)
        for pixels in ((SMALL, ALL) if case[0] == first else (ALL,))
    ]


def _marks(variant: str, pixels: float) -> list[pytest.MarkDecorator]:
    if pixels != ALL:
        return []
    # 16 GB: the model in float64, the file's arrays and the bytes that they are read from
    return [pytest.mark.slow, *([pytest.mark.alone] if 'huge' in variant else [])]


CASES = [
    pytest.param(record, *case.values, marks=case.marks)
    for record, family in STAGED.items()
    for case in tiers(family.variants, family.out_norms)
]
# The random weights of the recordings amplify rounding from block to block. In ResT large's 24
# blocks the literal form in float32 is itself off by up to 5e-4, this one by up to 3e-4; weights
# rounded to float32 but evaluated in float64 by 3e-5.
FLOAT32_TOLERANCE = {('rest', 'large'): 1e-3}
# how many sizes were recorded
FEWER = {
    ('gpvit', 'l4'): 4,
    ('gpvit_adapter', 'l1'): 4,
    ('gpvit_adapter', 'l2'): 4,
    ('gpvit_adapter', 'l3'): 3,
    ('gpvit_adapter', 'l4'): 3,
}


# detectron2's name -> ours
MVITV2_DETECTION = dict(tiny='tiny', small='small', base='base', large='large_cls', huge='huge_cls')


Weights = tuple[dict[str, Tensor], dict[str, Tensor]]


def authors_weights(name: str) -> Weights:
    """The authors' ImageNet weights and the norms that detection adds."""
    # the largest model's are not kept: 5 GB, beside the file's and the model's
    return (_make_weights if 'huge' in name else _keep_weights)(name)


def _make_weights(name: str) -> Weights:
    record = recorded.read(name)
    imagenet = recorded.weights(record['checkpoint'], record['seed'])
    return imagenet, recorded.weights(record.get('output_norms', {}), record['seed'])


_keep_weights = lru_cache(maxsize=1)(_make_weights)


def load_authors_weights(
    model: PyramidBackbone,
    name: str,
    file: Path,
    with_norms: bool = False,
    write: Callable[[dict[str, Tensor], Path], None] | None = None,
) -> None:
    """Loads what the authors' file of a model would hold into ours, by way of such a file."""
    imagenet, norms = authors_weights(name)
    (write or _write_pth)({**imagenet, **(norms if with_norms else {})}, file)
    del imagenet, norms
    load_pretrained(model, str(file))
    file.unlink()


def _write_pth(weights: dict[str, Tensor], file: Path) -> None:
    torch.save({'model': weights}, file)


def test_every_published_variant_is_recorded() -> None:
    # those without are compared with another library's class
    compared = {'PVT', 'PVTV2', 'Swin'}
    assert {family.__name__ for family, row in ROWS.items() if not row.record} == compared, (
        "record the authors' outputs (tests/parity/README.md) and name them in the row, or compare "
        "with another library's class"
    )
    for family, row in ROWS.items():
        for variant in family.variants if row.record else ():
            assert recorded.read(f'{row.record}_{variant}')['cases']
    for name in MVITV2_DETECTION:
        assert recorded.read(f'mvitv2_{name}_det')['cases']


@pytest.mark.parametrize(('prefix', 'arch', 'out_norm', 'pixels'), CASES)
def test_computes_what_the_authors_model_computes(
    prefix: str, arch: str, out_norm: str, pixels: float, tmp_path: Path
) -> None:
    name = f'{prefix}_{arch}'
    model = STAGED[prefix](arch, out_norm=out_norm).double().eval()
    load_authors_weights(model, name, tmp_path / 'authors.pth', with_norms=out_norm != 'none')
    tolerance = FLOAT32_TOLERANCE.get((prefix, arch), 1e-4)
    count = FEWER.get((prefix, arch), 5)
    assert_computes(model, recorded.read(name), out_norm, count, pixels, tolerance)


def assert_computes(
    model: PyramidBackbone,
    record: dict[str, Any],
    norm: str,
    count: int,
    pixels: float,
    tolerance: float = 1e-4,
) -> None:
    """Every recorded case of a norm, in float64 and in float32."""
    cases = [case for case in record['cases'] if case['norm'] == norm]
    assert len(cases) == count
    assert_computes_cases(model, record['seed'], of_size(cases, pixels), tolerance)


def of_size(cases: Iterable[dict[str, Any]], pixels: float) -> list[dict[str, Any]]:
    """The cases whose batches have so many pixels at most: of two or more sizes."""
    chosen = [c for c in cases if math.prod(c['input']) <= c['input'][1] * pixels]
    assert len({tuple(case['input']) for case in chosen}) >= 2
    return chosen


def assert_computes_cases(
    model: PyramidBackbone, seed: str, cases: Iterable[dict[str, Any]], tolerance: float = 1e-4
) -> None:
    for dtype, tolerated in ((torch.float64, 1e-9), (torch.float32, tolerance)):
        model.to(dtype)
        for case in cases:
            with torch.inference_mode():
                maps = model(recorded.images(case['input'], seed).to(dtype))
            for level, expected in zip(maps, case['outputs'], strict=True):
                assert recorded.distance(level, expected) < tolerated, (dtype, case['input'])


@pytest.mark.parametrize(('arch', 'pixels'), tiers(ResFormer.variants))
def test_computes_what_resformer_computes(arch: str, pixels: float, tmp_path: Path) -> None:
    record = recorded.read(f'resformer_{arch}')
    raw = ResFormer(arch, pyramid=None, out_norm='none').double().eval()
    normed = ResFormer(arch, pyramid=None, taps=(11,), out_indices=(0,)).double().eval()
    for model in (raw, normed):
        load_authors_weights(model, f'resformer_{arch}', tmp_path / 'authors.pth')
    assert len(record['cases']) == 5
    for dtype, tolerated in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        for case in of_size(record['cases'], pixels):
            images = recorded.images(case['input'], record['seed']).to(dtype)
            with torch.inference_mode():
                outputs = [*raw.to(dtype)(images), *normed.to(dtype)(images)]
                outputs.append(normed.encode(images)[0][11][:, 0])
            names = ('block3', 'block6', 'block9', 'block12', 'norm', 'cls')
            assert set(names) == set(case['outputs'])
            for name, output in zip(names, outputs, strict=True):
                error = recorded.distance(output, case['outputs'][name])
                assert error < tolerated, (dtype, case['input'], name)


def mvitv2_cases(name: str) -> int:
    """How many sizes were recorded: huge's are half as many."""
    return 3 if name.startswith('huge') else 6


@pytest.mark.parametrize(('arch', 'pixels'), tiers(MViTV2.variants))
def test_computes_what_mvitv2_computes_in_classification(
    arch: str, pixels: float, tmp_path: Path
) -> None:
    def write(weights: dict[str, Tensor], file: Path) -> None:
        torch.save({'epoch': 0, 'model_state': weights, 'cfg': ''}, file)

    model = MViTV2(arch, attention='pooling', out_norm='none').double().eval()
    load_authors_weights(model, f'mvitv2_{arch}', tmp_path / 'authors.pyth', write=write)
    record = recorded.read(f'mvitv2_{arch}')
    assert_computes(model, record, 'none', mvitv2_cases(arch), pixels)


@pytest.mark.parametrize(
    ('name', 'out_norm', 'pixels'), tiers(MVITV2_DETECTION, ('none', 'branch'))
)
def test_computes_what_mvitv2_computes_in_detection(
    name: str, out_norm: str, pixels: float, tmp_path: Path
) -> None:
    def write(weights: dict[str, Tensor], file: Path) -> None:
        state = {f'backbone.bottom_up.{key}': value.numpy() for key, value in weights.items()}
        state['backbone.fpn_lateral2.weight'] = np.zeros((1, 1, 1, 1))
        with file.open('wb') as out:
            pickle.dump({'model': state, '__author__': 'MViTv2'}, out)

    model = MViTV2(MVITV2_DETECTION[name], out_norm=out_norm).double().eval()
    record, file = recorded.read(f'mvitv2_{name}_det'), tmp_path / 'detectron2.pkl'
    load_authors_weights(model, f'mvitv2_{name}_det', file, out_norm != 'none', write)
    assert_computes(model, record, out_norm, mvitv2_cases(name), pixels)


def reading(family: type[PyramidBackbone], case: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a recorded case is of."""
    if family is TwinsSVT:
        options = dict(windows=case['windows'], stage_norm=case['norm'] == 'trunk')
    else:
        options = dict(out_norm=case['norm'])
    if family in (TwinsPCPVT, TwinsSVT):
        return {**options, 'sizes': case.get('sizes', 'ceil')}
    if family is CSWin:  # where its stem has one row or column less than the contract
        short = any(side % 4 in (1, 2) for side in case['input'][2:])
        return {**options, 'sizes': 'floor' if short else 'ceil'}
    return options


DEFAULTS = {
    TwinsPCPVT: dict(out_norm='none', sizes='ceil'),
    TwinsSVT: dict(windows='ragged', stage_norm=True, sizes='ceil'),
    P2T: dict(out_norm='none'),
    CSWin: dict(out_norm='branch', sizes='ceil'),
}


@pytest.mark.parametrize('of', ['default', pytest.param('others', marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ('family', 'arch', 'pixels'),
    [
        pytest.param(family, *case.values, id=f'{family.__name__}-{case.values}', marks=case.marks)
        for family in READ_IN_SEVERAL_WAYS
        for case in tiers(family.variants)
    ],
)
def test_computes_what_the_authors_models_compute_in_every_reading(
    family: type[PyramidBackbone], arch: str, pixels: float, of: str, tmp_path: Path
) -> None:
    name = f'{ROWS[family].record}_{arch}'
    record = recorded.read(name)
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in record['cases']:
        is_default = reading(family, case) == DEFAULTS[family]
        if is_default == (of == 'default'):
            groups.setdefault(repr(reading(family, case)), []).append(case)
    assert groups or (family, of) == (P2T, 'others')
    for cases in groups.values():
        cases = of_size(cases, pixels) if of == 'default' else cases
        options = reading(family, cases[0])
        with_norms = options.get('stage_norm') or options.get('out_norm') == 'branch'
        model = family(arch, **options).double().eval()
        load_authors_weights(model, name, tmp_path / 'authors.pth', with_norms)
        assert_computes_cases(model, record['seed'], cases)
