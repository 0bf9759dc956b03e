from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrest import GPViT, GPViTAdapter
from mmrest.backbones import gpvit_adapter
from mmrest.backbones.layers import as_map
from mmrest.checkpoints import CheckpointError, load_pretrained
from mmrest.errors import InputError
from tests.backbones.families import build
from tests.backbones.test_on_a_device import Watch


def test_levels_are_all_at_stride_8_or_a_pyramid_of_the_last() -> None:
    images = torch.zeros(1, 3, 70, 33)
    plain, pyramid = build(GPViT), build(GPViT, pyramid='simple')
    assert plain.out_strides == (8, 8, 8, 8)
    assert [tuple(level.shape[2:]) for level in plain(images)] == [(9, 5)] * 4
    assert pyramid.out_strides == (4, 8, 16, 32)
    sizes = [tuple(level.shape[2:]) for level in pyramid(images)]
    assert sizes == [(18, 9), (9, 5), (5, 3), (3, 2)]


def test_a_group_block_sees_the_whole_map() -> None:
    """Through its groups; stripes of two rows and columns would not reach the corner."""
    model = build(GPViT, out_norm='none').eval()
    images = torch.randn(1, 3, 64, 64)
    other = images.clone()
    other[:, :, :8, :8] += 1
    before, behind = (
        (a - b).abs()[0, :, -1, -1].max()
        for a, b in zip(model(images)[:2], model(other)[:2], strict=True)
    )
    assert before == 0
    assert behind > 0


def test_recomputation_counts_a_batch_once() -> None:
    models = [build(GPViT, with_cp=with_cp).train() for with_cp in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    images = torch.randn(2, 3, 40, 40)
    for model in models:
        sum(level.sum() for level in model(images)).backward()
    for (name, buffer), other in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(InputError, match="pyramid='taps' must be one of"):
        GPViT('l1', pyramid='taps')
    with pytest.raises(InputError, match="out_norm='trunk' must be one of"):
        GPViT('l1', out_norm='trunk')


def test_an_adapter_gives_the_blocks_nothing_at_first() -> None:
    """Its scale begins at 0, so that the tokens are those of the ImageNet model."""
    images = torch.randn(1, 3, 48, 70)
    model = build(GPViTAdapter).eval()
    plain = build(GPViT, out_indices=(3,), out_norm='none').eval()
    state = model.state_dict()
    plain.load_state_dict({k: state[k] for k in plain.state_dict()})
    tokens = model.run_blocks(model.embed(images), 0, model.depth)
    torch.testing.assert_close(as_map(tokens), plain(images)[0])
    assert all((injector.gamma == 0).all() for injector in model.injectors)


def test_an_adapter_takes_an_imagenet_file_and_not_the_other_way_round(tmp_path: Path) -> None:
    options = dict(out_indices=(3,), out_norm='branch')
    imagenet = build(GPViT, **options)
    file = tmp_path / 'plain.pth'
    torch.save({'state_dict': imagenet.state_dict()}, file)
    adapted = build(GPViTAdapter)
    load_pretrained(adapted, str(file))
    torch.testing.assert_close(adapted.embed.pos_embed, imagenet.embed.pos_embed)
    torch.save({'state_dict': adapted.state_dict()}, file)
    with pytest.raises(CheckpointError, match='left over: extractors'):
        load_pretrained(imagenet, str(file))


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    model = build(GPViTAdapter)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith('injectors.1.')}
    file = tmp_path / 'half.pth'
    torch.save({'state_dict': state}, file)
    with pytest.raises(CheckpointError, match=r'missing: injectors\.1'):
        load_pretrained(build(GPViTAdapter), str(file))


@pytest.mark.parametrize('arch', [*GPViTAdapter.variants])
def test_parameters_of_the_authors_backbones_with_adapters(arch: str) -> None:
    """Counted in the authors' code; their README has whole models only."""
    counted = dict(l1=12.08, l2=28.73, l3=43.21, l4=87.73)
    with torch.device('meta'):
        model = GPViTAdapter(arch)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == counted[arch]


def test_levels_that_are_not_asked_for_are_left_out_of_a_file(tmp_path: Path) -> None:
    whole = build(GPViTAdapter)
    file = tmp_path / 'whole.pth'
    torch.save({'state_dict': whole.state_dict()}, file)
    for indices in ((1, 2, 3), (2,)):
        part = build(GPViTAdapter, out_indices=indices)
        load_pretrained(part, str(file))
        images = torch.rand(1, 3, 40, 56)
        levels = whole.eval()(images)
        for index, level in zip(indices, part.eval()(images), strict=True):
            torch.testing.assert_close(level, levels[index])


def test_places_of_maps_are_filled_in_on_the_device() -> None:
    maps = [torch.empty(1, h, w, 2, 4) for h, w in ((4, 6), (2, 3), (1, 2))]
    sizes, starts = gpvit_adapter._places(maps)
    assert sizes.tolist() == [[4, 6], [2, 3], [1, 2]]
    assert starts.tolist() == [0, 24, 30]
    on_meta = [m.to('meta') for m in maps]
    with Watch() as watch:
        sizes, starts = gpvit_adapter._places(on_meta)
    assert {sizes.device.type, starts.device.type} == {'meta'}
    assert not watch.copies
