from __future__ import annotations

import pytest
import torch

from mmrest import GPViT
from mmrest.errors import InputError
from tests.backbones.families import build


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
