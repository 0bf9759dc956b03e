"""MViTv2 beyond what all families share: windows, positions, arguments of the ablations, files."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest import MViTV2
from mmrest.backbones.pooling_attention import JointPositions
from mmrest.checkpoints import CheckpointError, load_pretrained, plain_pickle
from mmrest.errors import InputError
from tests.backbones.families import ROWS, randomize

SMALL = ROWS[MViTV2].arch


def blocks(model: MViTV2) -> list[Any]:
    return [block for stage in model.stages for block in stage.blocks]


def test_strides_windows_and_tables_are_those_of_detectron2() -> None:
    with torch.device('meta'):
        attentions = [block.attn for block in blocks(MViTV2('tiny'))]
    assert [a.q_stride for a in attentions] == [1, 2, 1, 2, 1, 1, 1, 1, 2, 1]
    # twice the stride in the last block of stages 2 and 3
    assert [a.kv_stride for a in attentions] == [4, 2, 4, 1, 1, 1, 1, 2, 1, 1]
    assert [a.window_size for a in attentions] == [56, 56, 0, 28, 14, 14, 14, 0, 14, 0]
    rows = [len(a.positions.rows) for a in attentions]
    assert rows == [111, 55, 55, 55, 27, 27, 27, 27, 27, 13]


def test_pooling_attention_has_no_window_and_plain_windows_have_no_global_block() -> None:
    with torch.device('meta'):
        pooling = [block.attn for block in blocks(MViTV2('tiny', attention='pooling'))]
        windows = [block.attn for block in blocks(MViTV2('tiny', attention='windows'))]
    assert [a.kv_stride for a in pooling] == [4, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert not any(a.window_size for a in pooling)
    assert [a.window_size for a in windows] == [56, 56, 28, 28, 14, 14, 14, 14, 14, 7]
    assert [a.kv_stride for a in windows] == [a.kv_stride for a in pooling]


@pytest.mark.parametrize('size', [(1, 1), (3, 500), (2000, 30), (224, 225)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    for attention in ('hwin', 'pooling', 'windows'):
        model = MViTV2(SMALL, attention=attention).eval()
        with torch.no_grad():
            maps = model(torch.randn(1, 3, *size))
        for level, stride, channels in zip(maps, (4, 8, 16, 32), (8, 16, 24, 32), strict=True):
            assert level.shape == (1, channels, *(-(-side // stride) for side in size))
            assert level.isfinite().all()


def literal_attention(attn: Any, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Equations 1, 3 and 4 for one image, head by head, query by query; no windows.

    The token in front of the cells, if there is one, is not convolved, has no position, and its
    query is not added.
    """
    heads, dim = attn.num_heads, attn.proj.in_features // attn.num_heads
    has_token = x.shape[1] > grid[0] * grid[1]
    qkv = attn.qkv(x[0]).view(-1, 3, heads, dim)
    pools = attn.q_pool, attn.k_pool, attn.v_pool
    out = []
    for head in range(heads):
        tokens, maps = [], []
        for part, pool in zip(qkv[:, :, head].unbind(1), pools, strict=True):
            tokens.append([pool.norm(part[0])] if has_token else [])
            cells = part[int(has_token) :].view(*grid, dim).permute(2, 0, 1)[None]
            pooled = F.conv2d(cells, pool.conv.weight, None, pool.conv.stride, 1, 1, dim)
            maps.append(pool.norm(pooled[0].permute(1, 2, 0)))
        keys, values = (
            torch.stack([*t, *m.flatten(0, 1)]) for t, m in zip(tokens[1:], maps[1:], strict=True)
        )
        for q in tokens[0]:
            out.append(((keys @ q) * dim**-0.5).softmax(0) @ values)
        rows, columns = maps[1].shape[:2]
        for y, z in itertools.product(*map(range, maps[0].shape[:2])):
            q = maps[0][y, z]
            logits = (keys @ q) * dim**-0.5
            for key, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
                at = y - i + rows - 1, z - j + columns - 1
                logits[key + has_token] += literal_logit(q, attn.positions, *at)
            out.append(logits.softmax(0) @ values + attn.residual * q)
    joined = torch.stack(out).view(heads, -1, dim).transpose(0, 1).flatten(1)
    return attn.proj(joined)[None]


def literal_logit(q: Tensor, positions: Any, row: int, column: int) -> Tensor | float:
    if positions is None:
        return 0.0
    if isinstance(positions, JointPositions):
        return positions.table[row, column] @ q
    return positions.rows[row] @ q + positions.columns[column] @ q


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('token', [False, True])
@pytest.mark.parametrize(
    'options',
    [{}, dict(positions='joint'), dict(positions='none'), dict(residual_pooling=False)],
    ids=str,
)
def test_attention_is_that_of_the_paper(
    options: dict[str, Any], token: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    arch = dict(SMALL, cls_token=token)
    model = randomize(MViTV2(arch, attention='pooling', **options)).to(dtype)
    attn = model.stages[2].blocks[1].attn  # queries and keys of one stride
    grid = (2, 2)  # what its tables are made for
    x = torch.randn(1, token + 4, 24, dtype=dtype)
    torch.testing.assert_close(attn(x, grid), literal_attention(attn, x, grid))


@pytest.mark.parametrize('token', [False, True])
@pytest.mark.parametrize(('widens_in', 'place'), [('attention', 0), ('mlp', -1)])
def test_a_block_that_widens_is_that_of_the_authors(
    widens_in: str, place: int, token: bool
) -> None:
    """Shortcuts over wider channels are linear layers of what is normalised, and pooled."""
    arch = dict(SMALL, widens_in=widens_in, cls_token=token)
    model = randomize(MViTV2(arch, attention='pooling')).double().eval()
    block = model.stages[1].blocks[place]
    grid = (6, 5)
    x = torch.randn(2, token + 30, block.norm1.normalized_shape[0], dtype=torch.double)

    def pool(x: Tensor) -> Tensor:
        cells = x[:, token:].transpose(1, 2).unflatten(2, grid)
        smaller = F.max_pool2d(cells, 3, 2, 1).flatten(2).transpose(1, 2)
        return torch.cat([x[:, :token], smaller], dim=1) if block.stride == 2 else x

    y = block.norm1(x)
    attended = block.attn(y, grid)
    if widens_in == 'attention':
        assert block.stride == 2
        middle = pool(block.proj(y)) + attended
        expected = middle + block.mlp(block.norm2(middle))
    else:
        assert block.stride == 1
        middle = x + attended
        y = block.norm2(middle)
        expected = block.proj(y) + block.mlp(y)
    torch.testing.assert_close(block(x, grid), expected)


def test_a_window_sees_nothing_else() -> None:
    model = randomize(MViTV2(SMALL, attention='windows', out_norm='none')).double().eval()
    attn = model.stages[0].blocks[0].attn
    x = torch.randn(1, 16, 16, 8, dtype=torch.double)
    other = x.clone()
    other[:, 10:, 10:] += 1  # within the last window of 8, beyond the convolutions' reach
    first, second = (attn(t.flatten(1, 2), (16, 16)).view(16, 16, 8) for t in (x, other))
    changed = (first - second).abs().amax(2) > 1e-12
    assert changed[8:, 8:].all()
    assert not changed[:8, :8].any()
    # the convolutions alone reach over the edge
    assert not changed[:8].any()


def test_windows_on_whole_maps_are_global_attention_with_zero_padding() -> None:
    """A map that fills one window: the window changes nothing."""
    arch = dict(SMALL, window_sizes=(8, 4, 4, 2))
    windows = MViTV2(arch, attention='windows', out_norm='none', out_indices=(0,)).double().eval()
    whole = MViTV2(arch, attention='pooling', out_norm='none', out_indices=(0,)).double().eval()
    whole.load_state_dict(windows.state_dict())
    images = torch.randn(1, 3, 32, 32, dtype=torch.double)
    torch.testing.assert_close(windows(images), whole(images))
    images = torch.randn(1, 3, 20, 32, dtype=torch.double)
    assert not torch.allclose(windows(images)[0], whole(images)[0])


@pytest.mark.parametrize(
    ('options', 'gone', 'new'),
    [
        (dict(positions='none'), 'positions', None),
        (dict(positions='joint'), 'attn.positions.', 'attn.positions.table'),
        (dict(positions='absolute'), 'positions', 'stages.0.embed.pos_embed'),
        (dict(positions='absolute_and_decomposed'), None, 'stages.0.embed.pos_embed'),
        (dict(pool_every_q=False), 'attn.q_pool', None),
        (dict(residual_pooling=False), None, None),
        (dict(residual_pooling=False, pool_every_q=False), 'attn.q_pool', None),
    ],
)
def test_the_papers_ablations_build_nothing_else(
    options: Mapping[str, Any], gone: str | None, new: str | None
) -> None:
    plain, model = MViTV2(SMALL), MViTV2(SMALL, **options)
    before, after = set(plain.state_dict()), set(model.state_dict())
    assert all(gone is not None and gone in key for key in before - after)
    assert bool(before - after) == (gone is not None)
    assert all(new is not None and new in key for key in after - before)
    assert bool(after - before) == (new is not None)
    # where the map is halved, queries are always pooled
    assert 'stages.1.blocks.0.attn.q_pool.conv.weight' in after
    images = torch.randn(1, 3, 50, 70)
    plain.load_state_dict(model.state_dict(), strict=False)
    assert not torch.allclose(plain.eval()(images)[0], model.eval()(images)[0])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(attention='swin'), "attention='swin' must be one of hwin, pooling, windows"),
        (dict(positions='relative'), "positions='relative' must be one of decomposed"),
        (dict(arch=dict(SMALL, window_sizes=(10, 4, 4, 2))), 'window_sizes: 10 is not a multiple'),
        (dict(out_norm='trunk'), 'out_norm'),
    ],
)
def test_wrong_arguments_are_named(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MViTV2(**{'arch': SMALL, **options})


def authors_state(model: MViTV2) -> dict[str, Tensor]:
    """The state of a model without output norms in the names of facebookresearch/mvit."""
    state: dict[str, Tensor] = {}
    first = [sum(model.depths[:stage]) for stage in range(len(model.depths))]
    for key, value in model.state_dict().items():
        name = key.replace('stages.0.embed.cls_token', 'cls_token')
        name = name.replace('stages.0.embed.pos_embed', 'pos_embed')
        name = name.replace('stages.0.embed.proj', 'patch_embed.proj')
        for letter in 'qkv':
            name = name.replace(f'{letter}_pool.conv', f'pool_{letter}')
            name = name.replace(f'{letter}_pool.norm', f'norm_{letter}')
        name = name.replace('positions.rows', 'rel_pos_h').replace('positions.columns', 'rel_pos_w')
        if name.startswith('stages.'):
            _, stage, _, block, *rest = name.split('.')
            name = '.'.join(['blocks', str(first[int(stage)] + int(block)), *rest])
        state[name] = value.clone()
    return {**state, 'norm.weight': torch.ones(32), 'head.projection.bias': torch.ones(7)}


def load(model: MViTV2, state: Mapping[str, Tensor], tmp_path: Path) -> MViTV2:
    torch.save({'model_state': dict(state)}, tmp_path / 'file.pyth')
    load_pretrained(model, str(tmp_path / 'file.pyth'))
    return model


def assert_equal_states(model: MViTV2, other: MViTV2) -> None:
    for (key, a), (_, b) in zip(
        model.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), key


def test_files_of_the_authors_and_of_timm(tmp_path: Path) -> None:
    options = dict(arch=SMALL, attention='pooling', out_norm='none')
    source = randomize(MViTV2(**options))
    authors = authors_state(source)
    assert 'blocks.1.attn.pool_q.weight' in authors
    assert 'blocks.1.proj.weight' in authors
    video = {k: v[:, :, None] if v.ndim == 4 else v for k, v in authors.items()}
    timm = {
        key.replace('q_pool.conv', 'pool_q').replace('k_pool.conv', 'pool_k')
        .replace('v_pool.conv', 'pool_v').replace('q_pool.norm', 'norm_q')
        .replace('k_pool.norm', 'norm_k').replace('v_pool.norm', 'norm_v')
        .replace('positions.rows', 'rel_pos_h').replace('positions.columns', 'rel_pos_w')
        .replace('0.proj.', '0.shortcut_proj_attn.').replace('stages.0.embed', 'patch_embed'): value
        for key, value in source.state_dict().items()
    }  # fmt: skip
    assert 'stages.1.blocks.0.shortcut_proj_attn.weight' in timm
    for state in (authors, video, timm):
        assert_equal_states(load(MViTV2(**options), state, tmp_path), source)


def test_a_class_token_is_dropped_where_there_is_none_and_asked_for_where_there_is(
    tmp_path: Path,
) -> None:
    arch = dict(SMALL, cls_token=True)
    options = dict(arch=arch, out_norm='none')
    state = authors_state(randomize(MViTV2(attention='pooling', **options)))
    assert 'cls_token' in state
    model = load(MViTV2(attention='hwin', **options), state, tmp_path)
    assert not any('cls_token' in key for key in model.state_dict())
    del state['cls_token']
    with pytest.raises(CheckpointError, match=r'missing: .*cls_token'):
        load(MViTV2(attention='pooling', **options), state, tmp_path)


def test_a_variant_without_a_class_token_says_that_it_leaves_one_out() -> None:
    options = dict(attention='pooling', out_norm='none')
    with_token = MViTV2(dict(SMALL, cls_token=True), **options)
    plain = MViTV2(SMALL, **options)
    for source, model, is_said in (
        (with_token, plain, True),
        (with_token, MViTV2(SMALL, out_norm='none'), False),  # in windows, as in detectron2
        (with_token, copy.deepcopy(with_token), False),
        (plain, copy.deepcopy(plain), False),
    ):
        renamed = model.rename_checkpoint(authors_state(source))
        assert any('class token' in note for note in renamed.notes) == is_said


@pytest.mark.parametrize('variant', ['base', 'base_cls', 'large', 'large_cls'])
def test_a_file_of_classification_names_its_variant(variant: str) -> None:
    with torch.device('meta'):
        state = authors_state(MViTV2(variant, attention='pooling', out_norm='none'))
        assert MViTV2.guess_variant(state) == f'MViTV2 {variant}'


def test_tables_of_another_image_size_are_resized(tmp_path: Path) -> None:
    options = dict(attention='pooling', out_norm='none')
    source = randomize(MViTV2(dict(SMALL, image_size=64), **options))
    model = load(MViTV2(SMALL, **options), authors_state(source), tmp_path)
    table = source.stages[0].blocks[0].attn.positions.rows
    expected = F.interpolate(table.T[None], size=15, mode='linear')[0].T
    torch.testing.assert_close(model.stages[0].blocks[0].attn.positions.rows, expected)


def test_joint_tables_of_another_image_size_are_resized(tmp_path: Path) -> None:
    options = dict(attention='pooling', positions='joint', out_norm='none')
    source = randomize(MViTV2(dict(SMALL, image_size=64), **options))
    model = load(MViTV2(SMALL, **options), authors_state(source), tmp_path)
    (wide, table) = (m.stages[0].blocks[0].attn.positions.table for m in (source, model))
    expected = F.interpolate(wide.permute(2, 0, 1)[None], size=(15, 15), mode='bilinear')
    torch.testing.assert_close(table, expected[0].permute(1, 2, 0))


@pytest.mark.parametrize('image_size', [32, 64])
@pytest.mark.parametrize('attention', ['hwin', 'pooling'])
def test_absolute_positions_beside_a_class_tokens(
    attention: str, image_size: int, tmp_path: Path
) -> None:
    arch = dict(SMALL, cls_token=True)
    options = dict(positions='absolute', out_norm='none')
    source = MViTV2(dict(arch, image_size=image_size), attention='pooling', **options)
    model = load(
        MViTV2(arch, attention=attention, **options), authors_state(randomize(source)), tmp_path
    )
    wide, table = (m.stages[0].embed.pos_embed for m in (source, model))
    side = image_size // 4
    cells = wide[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    expected = F.interpolate(cells, size=(8, 8), mode='bicubic').flatten(2).mT
    torch.testing.assert_close(table[:, -64:], expected)
    if attention == 'pooling':
        assert torch.equal(table[:, 0], wide[:, 0])


def test_large_of_in1k_does_not_fit_the_one_that_widens_in_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_pickle, '_TIMES_THE_FILE', math.inf)  # of the expanded tensors below
    with torch.device('meta'):
        shapes = authors_state(MViTV2('large', attention='pooling', out_norm='none'))
    state = {key: torch.zeros(1).expand(value.shape) for key, value in shapes.items()}
    with pytest.raises(CheckpointError, match='seems to be MViTV2 large'):
        load(MViTV2('large_cls', out_norm='none'), state, tmp_path)


def test_convolutions_over_time_are_refused(tmp_path: Path) -> None:
    options = dict(arch=SMALL, attention='pooling', out_norm='none')
    state = authors_state(MViTV2(**options))
    kernels = state['patch_embed.proj.weight'][:, :, None]
    video = {**state, 'patch_embed.proj.weight': kernels.expand(-1, -1, 3, -1, -1)}
    with pytest.raises(CheckpointError, match=r'wrong shape: .*embed\.proj\.weight'):
        load(MViTV2(**options), video, tmp_path)


def test_a_table_that_cannot_be_resized_is_refused(tmp_path: Path) -> None:
    options = dict(attention='pooling', out_norm='none')
    state = authors_state(MViTV2(SMALL, **options))
    key = next(key for key in state if key.endswith('rel_pos_h'))
    for shape in ((1, *state[key].shape), (len(state[key]), state[key].shape[1] + 1)):
        other = {**state, key: torch.zeros(shape)}
        with pytest.raises(CheckpointError, match=r'wrong shape: .*positions\.rows'):
            load(MViTV2(SMALL, **options), other, tmp_path)
