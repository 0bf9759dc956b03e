from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmrest import ResTV2
from mmrest.backbones.rest_v2 import EMSAV2
from mmrest.checkpoints import CheckpointError, load_pretrained
from tests.parity import recorded


@pytest.mark.parametrize('size', [(1, 1), (8, 16), (9, 5)], ids=str)
@pytest.mark.parametrize('sr_ratio', [2, 4])
def test_the_second_branch_restores_the_size_of_the_queries(
    size: tuple[int, int], sr_ratio: int
) -> None:
    attn = EMSAV2(8, num_heads=2, sr_ratio=sr_ratio, norm_eps=1e-6)
    x = torch.randn(2, *size, 8)
    reduced = attn.reduce(x)
    queries, keys, values = attn.project(x, reduced)
    q, k, v = (attn.split_heads(tokens) for tokens in (queries, keys, values))
    maps = attn.up[0](values.unflatten(1, reduced.shape[1:3])).permute(0, 3, 1, 2)
    restored = F.pixel_shuffle(maps, sr_ratio)
    assert restored.shape[2] >= size[0]
    assert restored.shape[3] >= size[1]
    restored = restored[:, :, : size[0], : size[1]].permute(0, 2, 3, 1)
    weights = (q @ k.transpose(-2, -1) / 4**0.5).softmax(-1)
    attended = (weights @ v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attn(x), attn.proj(attended + attn.up_norm(restored)))


def authors_file(folder: Path, norms: str | None, **extra: Any) -> tuple[str, dict]:
    """A file of ResTv2 tiny with the output norms of the authors' detection or segmentation."""
    record = recorded.read('restv2_tiny')
    state = {k: torch.rand(shape) for k, shape in record['checkpoint'].items()}
    if norms:
        for key, shape in record['output_norms'].items():
            state[norms.format(*key.split('.'))] = torch.rand(shape)
    state.update(extra)
    file = folder / 'authors.pth'
    torch.save({'model': state}, file)
    return str(file), state


@pytest.mark.parametrize('norms', ['{0}.{1}', '{0}.0.{1}'], ids=['segmentation', 'detection'])
def test_output_norms_of_the_authors_task_code(norms: str, tmp_path: Path) -> None:
    file, state = authors_file(tmp_path, norms)
    model = ResTV2('tiny')
    load_pretrained(model, file)
    for i in range(4):
        expected = state[norms.format(f'norm_{i + 1}', 'weight')]
        torch.testing.assert_close(model.branch_norms[str(i)].weight, expected)


def test_the_last_output_norm_starts_from_the_classifiers(tmp_path: Path) -> None:
    file, state = authors_file(tmp_path, None)
    model = ResTV2('tiny')
    load_pretrained(model, file)
    torch.testing.assert_close(model.branch_norms['3'].bias, state['norm.bias'])
    assert torch.equal(model.branch_norms['0'].weight, torch.ones(96))


def test_the_large_model_of_the_authors_detection_code_is_explained(tmp_path: Path) -> None:
    record = recorded.read('restv2_large')
    state = {k: torch.zeros(shape) for k, shape in record['checkpoint'].items()}
    state |= {
        k.replace('stage4.1.', 'stage4.2.'): v
        for k, v in state.items()
        if k.startswith('stage4.1.')
    }
    file = tmp_path / 'large.pth'
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r'depths=\(2, 3, 16, 3\), num_heads=\(1, 2, 4, 8\)'):
        load_pretrained(ResTV2('large'), str(file))
    detection = dataclasses.replace(
        ResTV2.variants['large'], depths=(2, 3, 16, 3), num_heads=(1, 2, 4, 8)
    )
    load_pretrained(ResTV2(detection), str(file))


def test_it_has_no_norms_in_the_trunk() -> None:
    with pytest.raises(ValueError, match='out_norm'):
        ResTV2('tiny', out_norm='trunk')
