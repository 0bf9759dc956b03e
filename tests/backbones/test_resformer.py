"""What is ResFormer's own: windows, pyramids, dtypes, and the layouts of its checkpoints."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger

from mmrest import ResFormer
from mmrest.backbones.resformer import PATCH, Attention
from mmrest.checkpoints import CheckpointError, load_pretrained
from tests.backbones.families import PLAIN, randomize
from tests.parity import recorded


def build(**options: Any) -> ResFormer:
    return ResFormer(**{'arch': PLAIN, 'drop_path_rate': 0.0, **options})


@pytest.mark.parametrize('grid', [(1, 1), (3, 5), (6, 4)], ids=str)
def test_a_window_that_covers_the_map_is_global_attention(grid: tuple[int, int]) -> None:
    model = randomize(build()).double().eval()
    images = torch.randn(1, 3, grid[0] * PATCH, grid[1] * PATCH, dtype=torch.float64)
    covered = build(window_size=max(grid), global_blocks=()).double().eval()
    covered.load_state_dict(model.state_dict())
    for level, other in zip(model(images), covered(images), strict=True):
        assert torch.equal(level, other)


def test_windows_leave_no_seams_in_the_local_embedding() -> None:
    """Of each head, a depthwise convolution of the whole map of its values is added."""
    attention = Attention(8, 2, window_size=2).double()
    torch.nn.init.normal_(attention.pos.weight)
    tokens = torch.randn(1, 1 + 36, 8, dtype=torch.float64)
    silent = copy.deepcopy(attention)
    torch.nn.init.zeros_(silent.pos.weight)
    torch.nn.init.zeros_(silent.pos.bias)
    for layer in (attention, silent):
        layer.proj = torch.nn.Identity()
    local = attention(tokens, (6, 6)) - silent(tokens, (6, 6))
    assert not local[:, 0].any()
    values = attention.qkv(tokens)[:, 1:, 16:]
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        maps = values[..., part].reshape(1, 6, 6, 4)
        expected = attention.pos(maps).flatten(1, 2)
        torch.testing.assert_close(local[:, 1:, part], expected)


def test_windows_need_not_divide_the_map() -> None:
    model = randomize(build(window_size=2, global_blocks=(1,))).eval()
    images = torch.randn(1, 3, 5 * PATCH, 3 * PATCH)
    maps = model(images)
    assert all(level.isfinite().all() for level in maps)


def test_global_blocks_are_global_and_default_to_the_ends_of_quarters() -> None:
    sizes = [block.attn.window_size for block in ResFormer('tiny', window_size=14).blocks]
    assert sizes == [14, 14, 0] * 4
    sizes = [block.attn.window_size for block in build(window_size=3, global_blocks=(0,)).blocks]
    assert sizes == [0, 3, 3, 3]


def test_pyramids() -> None:
    simple, taps, raw = (build(pyramid=kind) for kind in ('simple', 'taps', None))
    assert simple.out_strides == taps.out_strides == (4, 8, 16, 32)
    assert raw.out_strides == (16,) * 4
    assert simple.out_channels == taps.out_channels == raw.out_channels == (32,) * 4
    assert not any(taps.pyramid.parameters())
    assert simple.level_blocks == (3, 3, 3, 3)
    assert taps.level_blocks == raw.level_blocks == (0, 1, 2, 3)
    assert len(build(pyramid=None, taps=(0, 2), out_indices=(0,)).blocks) == 1
    # the map of stride 16 is the block's own, in every pyramid
    shared = {k: v for k, v in raw.state_dict().items() if k.startswith(('embed', 'blocks'))}
    simple.load_state_dict(shared, strict=False)
    taps.load_state_dict(shared, strict=False)
    images = torch.randn(1, 3, 40, 50)
    torch.testing.assert_close(simple(images)[2], raw(images)[3])
    torch.testing.assert_close(taps(images)[2], raw(images)[2])


@pytest.mark.parametrize('pyramid', ['taps', None])
@pytest.mark.parametrize('size', [(1, 1), (17, 90)], ids=str)
def test_the_other_pyramids_train_at_odd_sizes(pyramid: str | None, size: tuple[int, int]) -> None:
    model = build(pyramid=pyramid, window_size=2, drop_path_rate=0.2).train()
    maps = model(torch.randn(2, 3, *size))
    for level, stride in zip(maps, model.out_strides, strict=True):
        assert level.shape[-2:] == tuple(-(-side // stride) for side in size)
    sum(level.square().sum() for level in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    model = randomize(build(window_size=2)).eval()
    images = torch.randn(1, 3, 70, 50)
    exact = model(images)
    for level, other in zip(model.to(dtype)(images.to(dtype)), exact, strict=True):
        assert level.dtype == dtype
        assert (level.float() - other).abs().max() < 0.1 * other.abs().max()


def test_the_position_is_of_the_true_grid() -> None:
    model = randomize(build())
    wide, tall = model.embed.pos((2, 8)), model.embed.pos((8, 2))
    assert wide.shape == (1, 32, 2, 8)
    assert tall.shape == (1, 32, 8, 2)
    assert not torch.allclose(wide.flatten(2), tall.flatten(2))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(pyramid='fpn'), "pyramid='fpn'"),
        (dict(pyramid='taps', taps=(0, 1)), 'needs four taps'),
        (dict(pyramid=None, taps=(1, 0)), 'taps must be ascending'),
        (dict(pyramid=None, taps=(0, 4)), 'from 0 to 3'),
        (dict(taps=(0, 1, 2, 3)), 'made from the last block alone'),
        (dict(pyramid=None, taps=()), 'at least one tap'),
        (dict(pyramid=None, taps=3), 'taps must be ascending'),
        (dict(arch=dict(PLAIN, embed_dims='32')), "embed_dims='32'"),
        (dict(arch=dict(PLAIN, mlp_ratio=0.001)), 'leaves no channels'),
        (dict(window_size=-1), 'window_size'),
        (dict(window_size=1.5), 'window_size'),
        (dict(window_size=2, global_blocks=(7,)), 'global_blocks must'),
        (dict(global_blocks=(1,)), 'need a window_size'),
        (dict(out_norm='trunk'), "out_norm='trunk'"),
        (dict(arch=dict(PLAIN, num_heads=5)), 'multiple of 4 and of num_heads'),
        (dict(arch=dict(PLAIN, depth=0)), 'depth=0'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def authors_file(path: Path) -> str:
    record = recorded.read('resformer_tiny')
    state = {
        k: v.float() for k, v in recorded.weights(record['checkpoint'], record['seed']).items()
    }
    torch.save({'model': state}, path)
    return str(path)


def test_plain_vits_start_fresh_position_embeddings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = authors_file(tmp_path / 'vit.pth')
    state = torch.load(file)['model']
    state = {k: v for k, v in state.items() if 'get_v' not in k and 'pos_embed' not in k}
    state.update(
        pos_embed=torch.randn(1, 198, 192), dist_token=torch.randn(1, 1, 192),
        **{'head_dist.weight': torch.randn(1000, 192), 'head_dist.bias': torch.randn(1000)},
    )  # fmt: skip
    torch.save(state, file)
    model = ResFormer('tiny')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING):
            load_pretrained(model, file)
    finally:
        logger.removeHandler(caplog.handler)
    assert 'absolute positions is not used' in caplog.text
    torch.testing.assert_close(model.blocks[3].attn.qkv.weight, state['blocks.3.attn.qkv.weight'])
    del state['blocks.3.attn.qkv.weight']
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r'blocks\.3\.attn\.qkv\.weight'):
        load_pretrained(model, file)


def test_the_authors_files_fit_every_pyramid_and_only_their_variant(tmp_path: Path) -> None:
    file = authors_file(tmp_path / 'authors.pth')
    for options in (
        dict(), dict(pyramid='taps'), dict(pyramid=None, out_indices=(1,)), dict(out_norm='none'),
    ):  # fmt: skip
        load_pretrained(ResFormer('tiny', **options), file)
    with pytest.raises(CheckpointError, match='seems to be ResFormer tiny'):
        load_pretrained(ResFormer('small'), file)


def test_own_files_fit_other_pyramids_as_far_as_they_go(tmp_path: Path) -> None:
    taps, simple = str(tmp_path / 'taps.pth'), str(tmp_path / 'simple.pth')
    torch.save(dict(state_dict=build(pyramid='taps').state_dict()), taps)
    torch.save(dict(state_dict=build().state_dict()), simple)
    for options in (dict(pyramid='taps', out_indices=(0, 3)), dict(pyramid=None), dict()):
        load_pretrained(build(**options), taps)
    load_pretrained(build(out_indices=(1, 2)), simple)
    with pytest.raises(CheckpointError, match=r'branch_norms\.0'):
        load_pretrained(build(pyramid='taps'), simple)


def test_the_class_token_is_that_of_the_last_blocks_norm() -> None:
    model = build().eval()
    kept: list[torch.Tensor] = []
    model.class_token_norm.register_forward_hook(lambda *args: kept.append(args[-1]))
    model(torch.rand(1, 3, 48, 32))
    assert kept[0].shape[1] == 1 + 3 * 2
    assert build(out_norm='none').class_token_norm is None
