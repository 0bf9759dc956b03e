"""What is drawn of a backbone is what it computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmrest.backbones import BACKBONES, PyramidBackbone
from mmrest.commands.features import FeatureRecorder, draw_features, parse_point
from mmrest.errors import InputError
from tests.backbones.families import ROWS

HEIGHT, WIDTH = 96, 160
# attention to the whole map, or to one that is made of it; windows, stripes, tokens of groups and
# pools of several sizes have no picture
WHOLE = {'ResT', 'ResTV2', 'ResFormer', 'PVT', 'PVTV2', 'TwinsPCPVT', 'TwinsSVT', 'MViTV2'}


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
        assert torch.equal(recorder.maps[f'level_{index}'].map, level[0])
    attention = {key: m.map for key, m in recorder.maps.items() if key.startswith('attention')}
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
    torch.testing.assert_close(recorder.maps['attention_stages_3'].map, expected)


def test_position_encodings_of_the_families_that_have_a_picture() -> None:
    gates = record(BACKBONES['ResT'])[0].maps
    names = [key for key in gates if key.startswith('positions')]
    assert len(names) == 4
    gate = gates[names[0]].map
    assert gate.shape[1:] == (HEIGHT // 4, WIDTH // 4)
    assert 0 < gate.min() < gate.max() < 1
    maps = record(BACKBONES['ResFormer'])[0].maps
    assert sum(key.startswith('positions') for key in maps) == 1
    maps = record(BACKBONES['MViTV2'])[0].maps
    relative = [value for key, value in maps.items() if key.startswith('positions')]
    assert relative  # of the blocks that attend to the whole map
    assert all(value.map.ndim == 3 and value.of_point for value in relative)


@pytest.mark.parametrize('name', ['Swin', 'TwinsSVT', 'P2T', 'CSWin'])
@pytest.mark.parametrize('size', [(56, 56), (96, 128), (112, 112)], ids=str)
def test_windows_and_pools_are_not_taken_for_maps(name: str, size: tuple[int, int]) -> None:
    family = BACKBONES[name]
    backbone = family(family.variants[family.default]).eval()
    with torch.no_grad(), FeatureRecorder(backbone) as recorder:
        backbone(torch.randn(1, 3, *size))
    drawn = {key for key in recorder.maps if key.startswith('attention')}
    assert drawn == ({f'attention_stages_{i}' for i in range(4)} if name == 'TwinsSVT' else set())


class Detector(nn.Module):
    """Calls its backbone as mmdet's do."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: torch.Tensor, data_samples: list) -> tuple[torch.Tensor, ...]:
        return self.backbone(inputs)


def test_what_is_padding_is_not_drawn() -> None:
    model = Detector(BACKBONES['ResT'](ROWS[BACKBONES['ResT']].arch)).eval()
    sample = BaseDataElement(metainfo=dict(img_shape=(64, 96)))
    with torch.no_grad(), FeatureRecorder(model, (0.99, 0.99)) as recorder:
        maps = model(torch.randn(1, 3, HEIGHT, WIDTH), data_samples=[sample])
    assert torch.equal(recorder.maps['level_0'].map, maps[0][0, :, :16, :24])
    assert recorder._cell((HEIGHT // 4, WIDTH // 4)) == (15, 23)


def test_a_sliding_window_is_refused() -> None:
    model = Detector(nn.Identity())
    model.test_cfg = dict(mode='slide')
    with pytest.raises(InputError, match=r'model\.test_cfg\.mode=whole'):
        FeatureRecorder(model)


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


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    recorder, _ = record(BACKBONES['ResT'])
    for name in ('level_9.jpg', 'notes.txt'):
        (tmp_path / name).write_bytes(b'')
    written = list(draw_features(recorder, np.zeros((48, 80, 3), np.uint8), tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([*written, tmp_path / 'notes.txt'])


def test_an_attention_to_another_number_of_class_tokens_is_not_drawn() -> None:
    recorder = FeatureRecorder(nn.Linear(1, 1), (0.5, 0.5))
    recorder.input_size = 32, 48
    recorder._attending = SimpleNamespace(name='stages.0.attn', queries=(2, 3), keys=(2, 3))
    for rows, columns in ((7, 6), (6, 7), (8, 8)):
        recorder.add_attention(torch.rand(1, 1, rows, columns))
    assert recorder.maps == {}
    recorder.add_attention(torch.rand(1, 1, 7, 7))
    assert [found.map.shape for found in recorder.maps.values()] == [(1, 2, 3)]
