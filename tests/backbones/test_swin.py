"""Swin against mmdet's class, which is the authors'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.models.backbones import SwinTransformer
from mmdet.models.backbones.swin import swin_converter
from torch import Tensor, nn

from mmrest import ResT, Swin
from mmrest.checkpoints import CheckpointError, load_pretrained

ARCH = dict(embed_dims=(8, 16, 32, 64), depths=(2, 2, 1, 2), num_heads=(1, 2, 2, 4), window_size=3)


def mmdets() -> nn.Module:
    model = SwinTransformer(
        embed_dims=8, depths=ARCH['depths'], num_heads=ARCH['num_heads'], window_size=3
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.eval()  # returns None
    return model


def authors_state(model: nn.Module) -> dict[str, Tensor]:
    """A file of the authors that mmdet's converter makes mmdet's model of."""
    names = (
        ('patch_embed.projection', 'patch_embed.proj'),
        ('stages', 'layers'),
        ('attn.w_msa', 'attn'),
        ('ffn.layers.0.0', 'mlp.fc1'),
        ('ffn.layers.1', 'mlp.fc2'),
    )
    state = {}
    for key, value in model.state_dict().items():
        if 'downsample' in key:
            # the inverse of mmdet's: from (c, row, column) to (column, row, c)
            value = value.unflatten(-1, (-1, 2, 2)).movedim(-3, -1).transpose(-3, -2).flatten(-3)
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        state[key] = value.clone()
    state['norm.weight'], state['norm.bias'] = torch.ones(64), torch.zeros(64)
    state['head.weight'], state['head.bias'] = torch.ones(10, 64), torch.zeros(10)
    converted = swin_converter({k: v.clone() for k, v in state.items()})
    for key, value in model.state_dict().items():
        assert torch.equal(converted[f'backbone.{key}'], value), key
    return state


@pytest.mark.parametrize('layout', ['authors', 'mmdet'])
def test_computes_what_mmdets_class_computes(layout: str, tmp_path: Path) -> None:
    expected = mmdets()
    state = expected.state_dict() if layout == 'mmdet' else authors_state(expected)
    file = tmp_path / 'file.pth'
    torch.save(dict(model=state), file)
    model = Swin(ARCH).double().eval()
    load_pretrained(model, str(file))
    for size in ((64, 96), (75, 101), (33, 250), (224, 224), (1, 1), (7, 50)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            for actual, level in zip(model(images), expected(images), strict=True):
                torch.testing.assert_close(actual, level, rtol=1e-11, atol=1e-11)


def test_a_file_of_another_family_is_refused_and_not_reordered(tmp_path: Path) -> None:
    file = tmp_path / 'convnext.pth'
    torch.save({'stages.1.downsample.1.weight': torch.rand(4, 4, 2, 2)}, file)
    with pytest.raises(CheckpointError, match='does not fit'):
        load_pretrained(ResT('lite'), str(file))


def test_parameters_are_the_published() -> None:
    """As counted of mmdet's classes with windows of 7, millions, without output norms."""
    for arch, millions in dict(tiny=27.52, small=48.84, base=86.75, large=195.00).items():
        with torch.device('meta'):
            model = Swin(arch)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
            millions, abs=0.006
        )


def test_a_file_with_other_windows_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / 'file.pth'
    torch.save(Swin('base_384').state_dict(), file)
    with pytest.raises(CheckpointError, match='Swin base_384'):
        load_pretrained(Swin('base'), str(file))
