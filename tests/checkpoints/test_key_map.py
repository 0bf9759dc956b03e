from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.backbones import BACKBONES
from mmrest.checkpoints import Fresh, KeyMap, counted_from_one
from tests.backbones.families import ROWS
from tests.parity import recorded


def test_rules_are_applied_in_their_order_and_one_key_can_feed_several() -> None:
    keys = KeyMap(
        rules=(
            (r'stage(\d+)\.', counted_from_one('stages.{}.')),
            (r'stages\.0\.', ('stages.0.left.', 'stages.0.right.')),
            (r'stages\.0\.left\.old', r'stages.0.left.new'),
            (r'new', 'never'),
        ),
        drop=(r'head\.', r'stage9'),
    )
    assert keys.rename('stage1.old') == ['stages.0.left.new', 'stages.0.right.old']
    assert keys.rename('stage2.old') == ['stages.1.old']
    assert keys.rename('other.stage1.old') == ['other.stage1.old']
    assert keys.rename('head.weight') == keys.rename('stage9.x') == []


def test_tensors_of_another_shape_are_adapted_where_a_rule_says_so() -> None:
    """A table of positions is resized, joined weights are split: what the keys' owner says."""

    def resize(table: Tensor, shape: torch.Size) -> Tensor:
        return F.interpolate(table[None, None], shape)[0, 0]

    keys = KeyMap(adapt={r'pos\.table': resize})
    table = torch.rand(2, 2)
    assert keys.fit('pos.table', table, (2, 2)) is table
    assert keys.fit('pos.table', table, (4, 6)).shape == (4, 6)
    assert keys.fit('other', table, (4, 6)) is table


@pytest.mark.parametrize(
    ('rule', 'keys', 'applies'),
    [
        (Fresh('own'), ['a'], True),
        (Fresh('own', unless=r'a\d'), ['a', 'b1'], True),
        (Fresh('own', unless=r'a\d'), ['a1'], False),
        (Fresh('own', given='a$'), ['a'], True),
        (Fresh('own', given='a$'), ['ab'], False),
        (Fresh('own', given='a', unless='b'), ['a', 'b'], False),
    ],
)
def test_keys_start_fresh_where_the_file_cannot_have_them(
    rule: Fresh, keys: list[str], applies: bool
) -> None:
    assert rule.applies(keys) == applies


def test_signatures_tell_the_published_files_apart() -> None:
    """So that few models are built to guess what a file holds."""
    for family, row in ROWS.items():
        for variant in family.variants:
            name = f'{row.record}_{variant}'
            keys = recorded.read(name)['checkpoint']
            signed = {other for other in BACKBONES.values() if other.keys.may_be_of(keys)}
            assert signed == {family}


def test_patterns_are_regular_expressions() -> None:
    for family in BACKBONES.values():
        patterns = [pattern for pattern, _ in family.keys.rules]
        patterns += [*family.keys.drop, *family.keys.signature, *family.keys.adapt]
        assert all(re.compile(pattern) for pattern in patterns)
