"""Twins: mmseg's layout, and its windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmseg.models.backbones import PCPVT, SVT
from torch import nn

from mmrest import TwinsPCPVT, TwinsSVT
from mmrest.checkpoints import load_pretrained
from mmrest.errors import InputError

DIMS = (8, 16, 24, 32)
OPTIONS = dict(
    embed_dims=DIMS,
    num_heads=(1, 2, 3, 4),
    depths=(1, 2, 1, 2),
    mlp_ratios=(4, 4, 2, 2),
    sr_ratios=(8, 4, 2, 1),
)


def with_authors_eps(model: nn.Module) -> nn.Module:
    """mmseg's layers have others."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            behind_a_convolution = name.startswith('patch_embeds.') or name.endswith('.attn.norm')
            module.eps = 1e-5 if behind_a_convolution else 1e-6
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.double().eval()


@pytest.mark.parametrize('family', [TwinsPCPVT, TwinsSVT], ids=lambda family: family.__name__)
def test_mmsegs_files_load_and_compute_the_same(family: type, tmp_path: Path) -> None:
    if family is TwinsPCPVT:
        theirs = with_authors_eps(PCPVT(in_channels=3, qkv_bias=True, **OPTIONS))
        options = {}
    else:
        theirs = with_authors_eps(
            SVT(
                in_channels=3,
                windiow_sizes=[7] * 4,
                norm_after_stage=[True] * 4,
                qkv_bias=True,
                **OPTIONS,
            )
        )
        options = dict(windows='masked')
    file = tmp_path / 'mmseg.pth'
    torch.save(dict(state_dict=theirs.state_dict()), file)
    model = family(OPTIONS, **options).double().eval()
    load_pretrained(model, str(file))
    for size in ((64, 96), (224, 224), (224, 96)):  # theirs drops rows at others
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            for actual, expected in zip(model(images), theirs(images), strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_unknown_windows_are_named() -> None:
    with pytest.raises(InputError, match="windows='shifted' must be one of ragged, padded"):
        TwinsSVT('small', windows='shifted')


def test_windows_differ_where_they_do_not_divide_a_map() -> None:
    models = {
        windows: TwinsSVT({**OPTIONS, 'window_size': 3}, windows=windows, out_indices=(0,)).eval()
        for windows in ('ragged', 'padded', 'masked')
    }
    for model in models.values():
        model.load_state_dict(models['ragged'].state_dict())

    def differ(size: tuple[int, int]) -> tuple[bool, bool]:
        images = torch.randn(1, 3, *size)
        maps = {windows: model(images)[0] for windows, model in models.items()}
        return (
            not torch.allclose(maps['ragged'], maps['padded'], atol=1e-6),
            not torch.allclose(maps['ragged'], maps['masked'], atol=1e-6),
        )

    assert differ((24, 36)) == (False, False)  # 6x9 tokens
    assert differ((28, 32)) == (True, False)  # 7x8: both sides are filled
    assert differ((24, 32)) == (True, True)  # 6x8: one is, and the mask is lost
