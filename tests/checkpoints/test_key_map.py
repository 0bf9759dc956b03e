from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest import PVT, PVTV2, Swin, TwinsPCPVT, TwinsSVT
from mmrest.backbones import BACKBONES
from mmrest.checkpoints import Fresh, KeyMap, counted_from_one
from tests.backbones.families import ROWS, build
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


def test_every_name_that_a_key_feeds_goes_through_the_later_rules() -> None:
    keys = KeyMap(rules=((r'(.+)\.qkv', (r'\1.q', r'\1.kv')), (r'.+\.k?[qv]+', r'block.block')))
    assert keys.rename('attn.qkv') == ['block.block', 'block.block']
    split = KeyMap(rules=((r'a', ('b.x', 'b.y')), (r'b', 'c')))
    assert split.rename('a.b') == ['c.x.b', 'c.y.b']


def test_a_rule_renames_the_beginning_of_a_key_alone() -> None:
    keys = KeyMap(rules=((r'norm', 'ln'),))
    assert keys.rename('norm.norm.norm') == ['ln.norm.norm']


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
        # those without a record have tests of their own of the authors' layout
        for variant in family.variants if row.record else ():
            name = f'{row.record}_{variant}'
            keys = [k.removeprefix('backbone.') for k in recorded.read(name)['checkpoint']]
            signed = {other for other in BACKBONES.values() if other.keys.may_be_of(keys)}
            assert signed == {family}


def test_own_files_are_told_apart_too() -> None:
    """Else every published variant of every family is built for an error's last line."""
    for family in BACKBONES.values():
        keys = build(family).state_dict()
        signed = {other for other in BACKBONES.values() if other.keys.may_be_of(keys)}
        assert signed == {family}


def test_signatures_tell_the_layouts_apart_that_are_not_recorded() -> None:
    for family, keys in (
        (PVT, ['pos_embed1', 'patch_embed1.proj.weight', 'block1.0.attn.q.weight']),
        (PVT, ['layers.0.1.0.pos_embed', 'layers.0.0.projection.weight']),
        (PVTV2, ['patch_embed1.proj.weight', 'block1.0.mlp.dwconv.dwconv.weight']),
        (PVTV2, ['layers.0.0.projection.weight', 'layers.0.1.0.ffn.layers.1.weight']),
        (Swin, ['layers.0.blocks.0.attn.relative_position_bias_table']),
        (Swin, ['stages.0.blocks.0.attn.w_msa.relative_position_bias_table']),
        (TwinsSVT, ['position_encodings.0.proj.weight', 'layers.0.0.attn.qkv.weight']),
        (TwinsPCPVT, ['position_encodings.0.proj.weight', 'layers.0.0.attn.attn.in_proj_weight']),
    ):
        signed = {other for other in BACKBONES.values() if other.keys.may_be_of(keys)}
        assert signed == {family}, keys


def test_patterns_are_regular_expressions() -> None:
    for family in BACKBONES.values():
        patterns = [pattern for pattern, _ in family.keys.rules]
        patterns += [*family.keys.drop, *family.keys.signature, *family.keys.adapt]
        assert all(re.compile(pattern) for pattern in patterns)
