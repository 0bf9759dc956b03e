from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrest import ResT
from mmrest.checkpoints import load_pretrained
from tests.parity import recorded

TINY = dict(
    embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(2, 2)
)


def tiny(**options: Any) -> ResT:
    return ResT(**{'arch': TINY, 'out_indices': (0, 1), 'drop_path_rate': 0.0, **options})


# The random weights of the recordings amplify rounding from block to block. In large's 24 blocks
# the literal form in float32 is off by up to 5e-4, and weights rounded to float32 but evaluated in
# float64 by 3e-5: no float32 arithmetic reaches 1e-4 there.
FLOAT32_TOLERANCE = {'lite': 1e-4, 'small': 1e-4, 'base': 1e-4, 'large': 1e-3}


@cache
def authors_weights(arch: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What was recorded, the authors' ImageNet weights and their detection code's output norms."""
    record = recorded.read(f'rest_{arch}')
    imagenet = recorded.weights(record['checkpoint'], record['seed'])
    norms = recorded.weights(record['output_norms'], record['seed'])
    return record, imagenet, norms


@pytest.mark.parametrize('out_norm', ['none', 'branch', 'trunk'])
@pytest.mark.parametrize('arch', ResT.variants)
def test_computes_what_the_authors_model_computes(arch: str, out_norm: str, tmp_path: Path) -> None:
    record, imagenet, norms = authors_weights(arch)
    state = imagenet if out_norm == 'none' else {**imagenet, **norms}
    file = tmp_path / 'authors.pth'
    torch.save({'model': state}, file)
    model = ResT(arch, out_norm=out_norm).double().eval()
    load_pretrained(model, str(file))
    file.unlink()
    cases = [case for case in record['cases'] if case['norm'] == out_norm]
    assert len(cases) == 5
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, FLOAT32_TOLERANCE[arch])):
        model.to(dtype)
        for case in cases:
            with torch.inference_mode():
                maps = model(recorded.images(case['input'], record['seed']).to(dtype))
            for level, expected in zip(maps, case['outputs'], strict=True):
                assert recorded.distance(level, expected) < tolerance, (dtype, case['input'])


@pytest.mark.parametrize('out_norm', ['none', 'branch', 'trunk'])
def test_gradients_reach_every_parameter_with_every_norm(out_norm: str) -> None:
    for out_indices in ((0,), (1,), (0, 1)):
        model = tiny(out_indices=out_indices, out_norm=out_norm)
        sum(level.square().sum() for level in model(torch.randn(2, 3, 30, 40))).backward()
        assert all(p.grad is not None for p in model.parameters())


def test_trunk_norms_change_the_later_stages_and_branch_norms_do_not() -> None:
    images = torch.randn(1, 3, 40, 48)
    plain, branch, trunk = (tiny(out_norm=n).eval() for n in ('none', 'branch', 'trunk'))
    for model in (branch, trunk):
        model.load_state_dict(plain.state_dict(), strict=False)
        for norm in (n for key, n in model.named_modules() if key.endswith('_norms.0')):
            torch.nn.init.uniform_(norm.weight, 1, 2)
    raw = plain(images)[1]
    normalised = torch.nn.functional.layer_norm(raw.permute(0, 2, 3, 1), (16,))
    torch.testing.assert_close(branch(images)[1], normalised.permute(0, 3, 1, 2))
    assert not torch.allclose(trunk(images)[1], branch(images)[1], atol=1e-2)


@pytest.mark.parametrize('norm_cfg', [dict(type='GN', num_groups=2), dict(type='SyncBN')])
def test_other_norms(norm_cfg: dict[str, Any]) -> None:
    model = tiny(norm_cfg=norm_cfg).eval()
    assert model(torch.randn(1, 3, 20, 20))[0].isfinite().all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(out_norm='both'), 'out_norm'),
        (dict(arch={**TINY, 'depths': (1,)}), 'numbers of stages'),
        (dict(arch={**TINY, 'num_heads': (1, 3)}), 'not a multiple'),
    ],
    ids=['norm', 'length', 'heads'],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)
