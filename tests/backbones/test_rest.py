from __future__ import annotations

from typing import Any

import pytest
import torch

from mmrest import ResT

TINY = dict(
    embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(2, 2)
)


def tiny(**options: Any) -> ResT:
    return ResT(**{'arch': TINY, 'out_indices': (0, 1), 'drop_path_rate': 0.0, **options})


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
