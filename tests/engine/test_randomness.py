from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmrest.engine.randomness import SeedIterationsHook, use_seed_of_checkpoint


def draws(event: str, rank: int, **randomness: object) -> torch.Tensor:
    runner = SimpleNamespace(seed=3, iter=5, rank=rank, _randomness_cfg=randomness)
    getattr(SeedIterationsHook(), event)(runner, 0)
    return torch.rand(4)


def test_processes_draw_the_same_for_batches_unless_they_are_asked_not_to() -> None:
    event = 'after_train_iter'
    assert torch.equal(draws(event, 0), draws(event, 1))
    assert not torch.equal(
        draws(event, 0, diff_rank_seed=True), draws(event, 1, diff_rank_seed=True)
    )


@pytest.mark.parametrize('different', [False, True])
def test_processes_draw_their_own_numbers_in_a_step(different: bool) -> None:
    event = 'before_train_iter'
    first, second, again = (draws(event, rank, diff_rank_seed=different) for rank in (0, 1, 1))
    assert not torch.equal(first, second)
    assert torch.equal(second, again)


@pytest.mark.parametrize(
    ('given', 'meta', 'seed', 'told'),
    [
        (None, dict(seed=7), 7, None),
        (dict(seed=7, deterministic=True), dict(seed=7), 7, None),
        (dict(seed=1), dict(seed=7), 7, 1),
        (dict(seed=1), dict(), 1, None),
        (dict(seed=1), dict(seed='7'), 1, None),
        (dict(seed=1), None, 1, None),
    ],
)
def test_a_resumed_training_has_the_seed_that_it_began_with(
    given: dict | None, meta: dict | None, seed: int, told: int | None, tmp_path: Path
) -> None:
    file = tmp_path / 'a.pth'
    torch.save(dict(state_dict={}, **({} if meta is None else dict(meta=meta))), file)
    cfg = Config(dict(load_from=str(file), randomness=given))
    assert use_seed_of_checkpoint(cfg) == told
    assert cfg.randomness.seed == seed
    assert cfg.randomness.get('deterministic') == (given or {}).get('deterministic')
