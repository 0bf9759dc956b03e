"""What is drawn of a backbone is what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmrest.backbones import BACKBONES, PyramidBackbone
from mmrest.commands.features import FeatureRecorder, draw_features, parse_point
from mmrest.errors import InputError
from tests.backbones.families import ROWS

HEIGHT, WIDTH = 96, 160
# attention to the whole map, or to one that a stride makes of it (the last stage's stripes of CSWin
# are as wide as this image's map); windows, tokens of groups and pools of several sizes have none
WHOLE = {
    'ResT', 'ResTV2', 'ResFormer', 'PVT', 'PVTV2', 'TwinsPCPVT', 'TwinsSVT', 'MViTV2', 'CSWin',
}  # fmt: skip


def record(
    family: type[PyramidBackbone], point: tuple[float, float] = (0.5, 0.5)
) -> tuple[FeatureRecorder, tuple[torch.Tensor, ...]]:
    backbone = family(ROWS[family].arch).eval()
    with torch.no_grad(), FeatureRecorder(backbone, point) as recorder:
        outputs = backbone(torch.randn(1, 3, HEIGHT, WIDTH))
    return recorder, outputs


@pytest.mark.parametrize('name', BACKBONES)
def test_levels_and_attention_of_every_family(name: str, tmp_path: Path) -> None:
    recorder, outputs = record(BACKBONES[name])
    for index, level in enumerate(outputs):
        assert torch.equal(recorder.maps[f'level_{index}'], level[0])
    attention = {key: m for key, m in recorder.maps.items() if key.startswith('attention')}
    assert bool(attention) == (name in WHOLE)
    for weights in attention.values():
        # of one query, all of its keys; a class token is not drawn
        total = weights.double().flatten(1).sum(1)
        assert ((total > 0.5) & (total < 1 + 1e-5)).all()
        ratio = weights.shape[2] / weights.shape[1]
        assert ratio == pytest.approx(WIDTH / HEIGHT, rel=0.5)
    image = np.full((48, 80, 3), 120, np.uint8)
    written = list(draw_features(recorder, image, tmp_path / 'features'))
    assert len(written) == len(recorder.maps)
    assert all(path.stat().st_size for path in written)


def test_the_attention_is_that_of_the_token_at_the_point() -> None:
    """Of a head-less calculation by hand: PVT's last stage reduces nothing."""
    family = BACKBONES['PVT']
    backbone = family(ROWS[family].arch).eval()
    seen: list[torch.Tensor] = []
    attn = backbone.stages[-1].blocks[-1].attn
    attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(), FeatureRecorder(backbone, (0.99, 0.0)) as recorder:
        backbone(torch.randn(1, 3, HEIGHT, WIDTH))
    tokens = seen[0].flatten(1, -2)[0]
    heads, (rows, columns) = attn.num_heads, (HEIGHT // 32, WIDTH // 32)
    q = attn.q(tokens).unflatten(1, (heads, -1))[columns - 1]
    k = attn.kv(tokens).chunk(2, 1)[0].unflatten(1, (heads, -1))
    logits = torch.einsum('hd,nhd->hn', q, k) * q.shape[1] ** -0.5
    expected = logits.softmax(1).unflatten(1, (rows, columns))
    torch.testing.assert_close(recorder.maps['attention_stride_32'], expected)


def test_position_encodings_of_the_families_that_have_a_picture() -> None:
    gates = record(BACKBONES['ResT'])[0].maps
    names = [key for key in gates if key.startswith('positions')]
    assert len(names) == 4
    assert gates[names[0]].shape[1:] == (HEIGHT // 4, WIDTH // 4)
    assert 0 < gates[names[0]].min() < gates[names[0]].max() < 1
    maps = record(BACKBONES['ResFormer'])[0].maps
    assert sum(key.startswith('positions') for key in maps) == 1
    maps = record(BACKBONES['MViTV2'])[0].maps
    relative = [value for key, value in maps.items() if key.startswith('positions')]
    assert relative  # of the blocks that attend to the whole map
    assert all(value.ndim == 3 for value in relative)


def test_nothing_is_left_in_the_backbone_even_if_it_fails() -> None:
    family = BACKBONES['ResT']
    backbone = family(ROWS[family].arch).eval()
    backbone.stages[1].blocks[0].register_forward_pre_hook(lambda *_: 1 / 0)
    recorder = FeatureRecorder(backbone)
    with torch.no_grad(), recorder, pytest.raises(ZeroDivisionError):
        backbone(torch.randn(1, 3, HEIGHT, WIDTH))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules()]
    assert sum(hooks) == 1
    kept = dict(recorder.maps)
    nn.functional.softmax(torch.zeros(1, 2, 24 * 40, 3 * 5), dim=-1)
    assert recorder.maps.keys() == kept.keys()


@pytest.mark.parametrize('text', ['', '1', '0.5;0.5', '2,0.5', '0.1,0.2,0.3', 'a,b', 'nan,0'])
def test_what_is_no_place_is_named(text: str) -> None:
    with pytest.raises(InputError, match='write X,Y'):
        parse_point(text)
