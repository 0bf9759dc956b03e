"""Models of any config are described without numbers, or it is said why not."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmrest.benchmark.complexity import count_image, count_parameters
from mmrest.benchmark.models import build_backbone, build_outline, build_whole, parse_model
from mmrest.engine.image_channels import image_channels
from mmrest.errors import InputError
from mmrest.tools.complexity import describe_config
from mmrest.tools.info import describe


@MODELS.register_module()
class AsksForNumbers(nn.Module):
    """Its layers depend on numbers, as rates of stochastic depth do in mmdet's Swin."""

    def __init__(self, needs: str | None = None) -> None:
        super().__init__()
        if needs:
            raise RuntimeError(f'{needs} is not installed,     please install it')
        widths = [int(width.item()) for width in torch.linspace(2, 4, 3)]
        self.layers = nn.Sequential(*(nn.Conv2d(3, width, 1) for width in widths))


@MODELS.register_module()
class HoldsADetector(nn.Module):
    """As mmdet's trackers do, which have no backbone of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = nn.Linear(3, 4)


def config(**model: Any) -> Config:
    return Config(dict(model=model, default_scope='mmrest', train_dataloader=None))


def test_a_model_that_asks_for_numbers_while_it_is_built() -> None:
    model = build_outline(config(type='AsksForNumbers'))
    assert {parameter.device.type for parameter in model.parameters()} == {'meta'}
    assert count_parameters(model) == pytest.approx((2 + 3 + 4) * (3 + 1) / 1e6)
    assert not model.training


def test_a_library_that_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    cfg = config(type='AsksForNumbers', needs='that')
    said = 'the AsksForNumbers of the config cannot be built: RuntimeError: that is not installed, '
    with pytest.raises(InputError, match=f'{said}please install it'):
        build_outline(cfg)
    file = str(tmp_path / 'a.py')
    cfg.dump(file)
    for build in (build_whole, describe_config):
        with pytest.raises(InputError, match=said):
            build(file)


def test_a_model_without_a_backbone_is_counted_as_a_whole(tmp_path: Path) -> None:
    cfg = config(type='HoldsADetector')
    assert describe(cfg, (64, 64))['parameters'] == '0.00 M'
    cfg.dump(str(tmp_path / 'a.py'))
    assert describe_config(str(tmp_path / 'a.py'), [(64, 64)])[1:] == ['0.00', '', '', '']


@MODELS.register_module()
class ReadsWeights(nn.Module):
    """Where mmdet and mmseg name weights: some are read while the model is built."""

    def __init__(self, init_cfg: Any, pretrained: str | None, teacher_ckpt: str | None) -> None:
        super().__init__()
        for path in (pretrained, teacher_ckpt):
            if path is not None:
                raise FileNotFoundError(path)
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """What a run calls."""
        assert self.init_cfg == [dict(type='Xavier')]


def test_weights_that_a_config_names_are_not_read(tmp_path: Path) -> None:
    path = '/nowhere/a.pth'
    entries = [dict(type='Pretrained', checkpoint=path), dict(type='Xavier')]
    cfg = config(type='ReadsWeights', init_cfg=entries, pretrained=path, teacher_ckpt=path)
    build_outline(cfg)
    cfg.dump(str(tmp_path / 'a.py'))
    build_whole(str(tmp_path / 'a.py'))
    assert cfg.model.teacher_ckpt == path  # the caller's stays as it was


def test_norms_over_processes_are_built_in_one() -> None:
    norm = dict(type='MMSyncBN')
    model = build_outline(config(type='mmdet.ResNet', depth=18, norm_cfg=norm))
    kinds = Counter(type(module).__name__ for module in model.modules())
    assert kinds['BatchNorm2d'] == 20
    assert not any('Sync' in name for name in kinds)


@MODELS.register_module()
class GrayDetector(nn.Module):
    """A foreign backbone, and a preprocessor that has a mean for each channel."""

    def __init__(self, channels: int, of_images: int) -> None:
        super().__init__()
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.register_buffer('mean', torch.zeros(of_images, 1, 1))
        self.backbone = nn.Conv2d(channels, 2, 3, padding=1, bias=False)


def test_images_have_as_many_channels_as_the_preprocessor_means() -> None:
    cfg = config(type='GrayDetector', channels=1, of_images=1)
    assert image_channels(build_outline(cfg)) == 1
    (counted,) = (value for name, value in describe(cfg, (10, 20)).items() if 'adds' in name)
    assert counted.startswith(f'{10 * 20 * 9 * 2 / 1e9:.2f} G')


def test_what_cannot_be_followed_is_told_in_the_place_of_the_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(type='GrayDetector', channels=4, of_images=1)
    (counted,) = (value for name, value in describe(cfg, (10, 20)).items() if 'adds' in name)
    assert counted.startswith('not counted; Conv2d')
    assert '1x10x20 (RuntimeError: ' in counted
    cfg.dump(str(tmp_path / 'a.py'))
    assert describe_config(str(tmp_path / 'a.py'), [(10, 20)])[-1] == 'not counted'
    assert 'takes no image of 1x10x20' in capsys.readouterr().err


def test_operators_of_mmcv_are_not_followed() -> None:
    deformable = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
    backbone = build_backbone(
        dict(type='mmdet.ResNet', depth=50, dcn=deformable, stage_with_dcn=[False, True] * 2)
    )
    with pytest.raises(InputError, match='ResNet cannot be followed without numbers'):
        count_image(backbone.to('meta'), 3, (64, 64))


@pytest.mark.parametrize('name', ['Rest', 'REST', 'ResTT'])
def test_a_backbone_that_is_misspelt_names_the_nearest(name: str) -> None:
    with pytest.raises(InputError, match=r'; did you mean ResT( or .*)?\?$'):
        build_backbone(dict(type=name))


@pytest.mark.parametrize(
    ('cfg', 'said'),
    [
        (dict(type='mmdet.ResNet', depth=51), 'KeyError: .invalid depth 51'),
        (dict(type='mmdet.'), "'mmdet.' names no backbone"),
        (dict(type=''), "'' names no backbone"),
        (dict(type='json.dumps', obj=1), 'makes str, and no model'),
        (dict(type='mmrest.ResT', archh='lite'), "unexpected keyword argument 'archh'"),
    ],
)
def test_what_is_no_backbone_is_told_in_one_line(cfg: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_backbone(cfg)


def one_of_each_folder(package: str) -> list[str]:
    """Configs that a package comes with."""
    root = Path(importlib.import_module(package).__file__).parent / '.mim/configs'
    folders = {file.parent for file in root.rglob('*.py') if '_base_' not in str(file)}
    return [str(min(folder.glob('*.py'))) for folder in sorted(folders)]


@pytest.mark.slow
@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
def test_every_config_of_theirs_is_described_or_refused(package: str) -> None:
    said, described = {}, 0
    files = one_of_each_folder(package)
    for file in files:
        try:
            describe_config(file, [(64, 64)])
            described += 1
        except InputError as error:
            said[file] = str(error)
    assert described > len(files) / 2
    # what is not installed, is no model, or is wrong in their own folder
    reasons = 'install', 'describes no model', 'No such file', 'should have 1 or 3', 'is no model'
    unexplained = [text for text in said.values() if not any(part in text for part in reasons)]
    assert not unexplained


@pytest.mark.parametrize(
    ('word', 'value'), [('false', False), ('False', False), ('true', True), ('small', 'small')]
)
def test_bare_words_are_texts_or_on_or_off(word: str, value: object) -> None:
    assert parse_model(f'MViTV2:residual_pooling={word}') == dict(
        type='MViTV2', residual_pooling=value
    )
