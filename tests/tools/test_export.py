"""Exported models, at sizes that were not traced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmrest.backbones import PyramidBackbone
from mmrest.engine.exporting import ExportedFeatures, exported_part
from mmrest.errors import InputError
from mmrest.lookup import get_config
from mmrest.tools import export as export_tool
from mmrest.tools.export import (
    NOT_BY_TORCHSCRIPT,
    Difference,
    compare,
    export,
    export_checked,
    require_onnx,
    require_torchscript,
)
from tests.backbones.families import ROWS, build_tiny, randomize

Run = Callable[..., subprocess.CompletedProcess]
TORCHSCRIPT = 'torchscript'
WAYS = '.onnx', '.pt2', TORCHSCRIPT
# programs of torch.export are in tests/backbones, too
IN_EVERY_RUN = ('.onnx', 'ResTV2'), (TORCHSCRIPT, 'ResT')


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def part_of(family: type[PyramidBackbone]) -> ExportedFeatures:
    model = nn.Module()
    model.backbone = randomize(build_tiny(family))
    return ExportedFeatures(model.eval(), 'backbone')


@pytest.mark.parametrize(
    ('way', 'family'),
    [
        pytest.param(
            way,
            family,
            marks=[] if (way, family.__name__) in IN_EVERY_RUN else pytest.mark.slow,
            id=f'{family.__name__} {way}',
        )
        for way in WAYS
        for family in ROWS
        if way != TORCHSCRIPT or family.__name__ not in NOT_BY_TORCHSCRIPT
    ],
)
def test_every_family_is_exported(way: str, family: type[PyramidBackbone], tmp_path: Path) -> None:
    suffix = '.onnx' if way == TORCHSCRIPT else way
    part, path = part_of(family), str(tmp_path / f'backbone{suffix}')
    export(part, path, (128, 192), way == TORCHSCRIPT)
    compare(part, path)


def test_what_the_older_exporter_cannot_export_is_named_at_once() -> None:
    cfg = Config(dict(model=dict(backbone=dict(type='mmrest.Swin'))))
    with pytest.raises(InputError, match=r'Swin cannot be exported by --torchscript .* without it'):
        require_torchscript(cfg)


def built(name: str, **options: object) -> nn.Module:
    cfg = get_config(name)
    cfg.merge_from_dict(options)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return randomize(MODELS.build(cfg.model)).eval()


DENSE = tuple(f'{kind}_{i}' for kind in ('scores', 'boxes') for i in range(3))


WHOLE = {
    'retinanet_rest_lite_shapes': DENSE,
    'upernet_rest_lite_shapes': ('logits',),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', WHOLE)
@pytest.mark.parametrize('way', WAYS)
def test_whole_models_are_exported(name: str, way: str, tmp_path: Path) -> None:
    suffix = '.onnx' if way == TORCHSCRIPT else way
    part, path = exported_part(built(name), 'model'), str(tmp_path / f'model{suffix}')
    assert part.output_names == WHOLE[name]
    export(part, path, (128, 192), way == TORCHSCRIPT)
    compare(part, path)


@pytest.mark.slow
@pytest.mark.parametrize('family', ROWS)
@pytest.mark.parametrize(
    ('base', 'more'),
    [
        ('mask_rcnn_rest_lite_shapes', {'neck': 'in_channels'}),
        ('upernet_rest_lite_shapes', {'decode_head': 'in_channels', 'auxiliary_head': None}),
    ],
    ids=['detector', 'segmentor'],
)
def test_a_detector_and_a_segmentor_of_every_family_are_exported(
    base: str, more: dict[str, str | None], family: type[PyramidBackbone], tmp_path: Path
) -> None:
    row = ROWS[family]
    options = {
        'model.backbone': dict(_delete_=True, type=f'mmrest.{family.__name__}', arch=row.arch)
    }
    for reader, argument in more.items():
        channels = list(family(row.arch).out_channels)
        options[f'model.{reader}' + (f'.{argument}' if argument else '')] = (
            channels if argument else None
        )
    part, path = exported_part(built(base, **options), 'model'), str(tmp_path / 'model.onnx')
    # pools of P2T have several rows only then
    export(part, path, (256, 320))
    compare(part, path)


class OneMap(nn.Sequential):
    """A backbone of one convolution, which is exported in no time."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (super().forward(x),)


def one_map() -> ExportedFeatures:
    model = nn.Module()
    model.backbone = OneMap()
    return ExportedFeatures(model.eval(), 'backbone')


def test_a_file_that_differs_is_refused(tmp_path: Path) -> None:
    part, path = one_map(), str(tmp_path / 'model.pt2')
    export(part, path, (128, 192))
    with torch.no_grad():
        next(part.parameters()).mul_(1.5)
    with pytest.raises(InputError, match=r'differs from torch by .* is not kept'):
        compare(part, path)


def test_an_export_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = one_map()
    path, weights = tmp_path / 'model.pt2', tmp_path / 'model.pt2.data'
    path.write_text('old')
    weights.write_text('old')

    def differ(*_: object) -> float:
        raise InputError('differs')

    with monkeypatch.context() as broken:
        broken.setattr(export_tool, 'compare', differ)
        with pytest.raises(InputError, match='differs'):
            export_checked(part, path, (128, 192))
    assert path.read_text() == weights.read_text() == 'old'
    assert sorted(tmp_path.iterdir()) == [path, weights]
    written, difference = export_checked(part, path, (128, 192))
    assert written == [path] == sorted(tmp_path.iterdir())
    assert compare(part, str(path)).from_torch < 1e-4 > difference.from_torch


def test_of_a_model_that_amplifies_rounding_torchs_own_error_is_said() -> None:
    assert str(Difference(3e-6, 1e-6)) == '3.0e-06'
    assert str(Difference(2e-3, 5e-4)) == (
        '2.0e-03 (the model amplifies rounding: torch itself is off by 5.0e-04)'
    )


def test_a_detector_without_a_dense_head_says_what_can_be_exported() -> None:
    with torch.device('meta'):
        cfg = get_config('deformable_detr_rest_small_coco')
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(cfg.model)
    with pytest.raises(InputError, match=r'DeformableDETR has no dense head.*--part features'):
        exported_part(model, 'model')
    with pytest.raises(InputError, match=r"part='heads' must be one of \('model', 'features'"):
        exported_part(model, 'heads')
    assert exported_part(model, 'features').output_names == tuple(f'level_{i}' for i in range(4))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['retinanet_rest_lite_shapes', 'gone.pth', 'a.onnx'], 'gone.pth does not exist'),
        (['retinanet_rest_lite_shapes', 'gone.pth', 'a.xml'], 'should end with .onnx or .pt2'),
        (
            ['retinanet_gpvit_shapes', 'gone.pth', 'a.onnx', '--torchscript'],
            'GPViT cannot be exported by --torchscript for all image sizes; without it, it can',
        ),
        (
            ['retinanet_rest_lite_shapes', 'gone.pth', 'a.pt2', '--torchscript'],
            '--torchscript writes ONNX, and a.pt2 is to be a program',
        ),
        (['no_such_config', 'gone.pth', 'a.onnx'], 'config no_such_config is not there'),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], message: str, run_tool: Run, tmp_path: Path
) -> None:
    result = run_tool('export.py', *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_weights_beside_a_file_are_not_replaced(run_tool: Run, tmp_path: Path) -> None:
    (tmp_path / 'a.onnx.data').write_text('precious')
    result = run_tool('export.py', 'retinanet_rest_lite_shapes', 'a.pth', 'a.onnx', cwd=tmp_path)
    assert result.returncode == 1
    assert 'a.onnx.data exists; --force replaces it' in result.stderr
    assert (tmp_path / 'a.onnx.data').read_text() == 'precious'


@pytest.mark.parametrize('path', ['a.onnx', 'a.pt2'])
def test_what_torch_cannot_export_is_told(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('\nmany lines\n\nsome operator is unknown\n')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    monkeypatch.setattr(torch.export, 'export', fail)
    part = one_map()
    with pytest.raises(InputError, match='torch cannot export this model: some operator is unkn'):
        export(part, str(tmp_path / path), (64, 64))


def test_a_file_that_does_not_run_at_other_sizes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(images: torch.Tensor) -> None:
        raise ValueError('dimensions of a pool differ\nmore')

    monkeypatch.setattr('mmrest.tools.export._runner', lambda path: run)
    part = one_map()
    with pytest.raises(InputError, match=r'a\.onnx cannot be run on images of .*a pool differ\.'):
        compare(part, str(tmp_path / 'a.onnx'))


def test_packages_that_onnx_needs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_onnx()
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(InputError, match='ONNX needs onnxscript: pip install onnxscript'):
        require_onnx()
