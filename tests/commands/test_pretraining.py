from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.checkpoints.published import find_published
from mmrest.commands.cli import require_files
from mmrest.commands.pretraining import forget_weights, require_weights, train_from_scratch
from mmrest.config_nodes import task_model
from mmrest.errors import InputError
from tests.shipped import NAMES, shipped

WEIGHTS = dict(type='Pretrained', checkpoint='rest.pth')


def load(name: str, tmp_path: Path) -> Config:
    cfg = shipped(name)
    cfg.work_dir = str(tmp_path)
    return cfg


def without_weights(name: str, tmp_path: Path) -> Config:
    cfg = load(name, tmp_path)
    forget_weights(cfg)
    return cfg


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MMREST_WEIGHTS', str(tmp_path / 'weights'))


@pytest.mark.parametrize('name', NAMES)
def test_every_fine_tuning_names_its_weights(name: str, tmp_path: Path) -> None:
    """And asks for them, if somebody takes the name away."""
    cfg = load(name, tmp_path)
    if name.endswith('_shapes'):
        require_weights(cfg)
        return
    backbone = task_model(cfg).backbone
    require_weights(cfg)
    weights = find_published(backbone.init_cfg.checkpoint)
    family = backbone.type.removeprefix('mmrest.')
    # an adapter is trained from the plain backbone
    assert (weights.family, weights.variant) == (family.removesuffix('Adapter'), backbone.arch)
    assert weights.task in ('imagenet', 'imagenet22k')
    forget_weights(cfg)
    with pytest.raises(InputError, match=r'random weights(.|\n)*Pretrained(.|\n)*--from-scratch'):
        require_weights(cfg)
    train_from_scratch(cfg)
    require_weights(cfg)
    model = task_model(cfg)
    assert model.backbone.get('frozen_stages', -1) == -1
    assert not model.backbone.get('init_cfg')


def test_every_source_of_weights_counts(tmp_path: Path) -> None:
    name = 'retinanet_rest_small_coco'
    for place in ('model.backbone.init_cfg', 'model.init_cfg'):
        cfg = without_weights(name, tmp_path)
        cfg.merge_from_dict({place: WEIGHTS})
        require_weights(cfg)
    cfg = without_weights(name, tmp_path)
    cfg.model.backbone.init_cfg = [dict(type='Constant', layer='Conv2d', val=0), WEIGHTS]
    require_weights(cfg)
    cfg = without_weights(name, tmp_path)
    cfg.load_from = 'detector.pth'
    require_weights(cfg)


def test_resuming_needs_something_to_resume(tmp_path: Path) -> None:
    cfg = without_weights('retinanet_rest_small_coco', tmp_path)
    cfg.resume = True
    with pytest.raises(InputError, match='random weights'):
        require_weights(cfg)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    require_weights(cfg)


def test_frozen_stages_are_asked_about_in_anybodys_config(tmp_path: Path) -> None:
    backbone = dict(type='mmrest.ResT', frozen_stages=0)
    cfg = Config(dict(model=dict(backbone=backbone), work_dir=str(tmp_path)))
    with pytest.raises(InputError, match=r'freezes random weights .*frozen_stages=0'):
        require_weights(cfg)
    # mmdet trains such a config, with a warning here
    cfg.model.backbone.type = 'mmdet.ResNet'
    require_weights(cfg)


def test_from_scratch_drops_weights_and_keeps_other_initialisation(tmp_path: Path) -> None:
    cfg = load('retinanet_rest_small_coco', tmp_path)
    constant = dict(type='Constant', layer='Conv2d', val=0)
    cfg.model.backbone.init_cfg = [constant, WEIGHTS]
    train_from_scratch(cfg)
    assert cfg.model.backbone.init_cfg == [constant]
    cfg.load_from = 'detector.pth'
    with pytest.raises(InputError, match='exclude each other'):
        train_from_scratch(cfg)


def test_weights_that_are_not_here_are_named_before_anything_is_built(tmp_path: Path) -> None:
    cfg = load('retinanet_rest_small_coco', tmp_path)
    with pytest.raises(InputError) as caught:
        require_files(cfg, trains=True)
    for text in ('mmrest://rest_small is not here', 'pan.baidu.com', 'access code rest',
                 str(tmp_path / 'weights/rest_small.pth'), '--from-scratch'):  # fmt: skip
        assert text in str(caught.value)
    # a test has the weights of its checkpoint
    require_files(cfg)
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights/rest_small.pth').write_bytes(b'weights')
    require_files(cfg, trains=True)


def test_weights_in_mmsegs_old_place_are_forgotten_too(tmp_path: Path) -> None:
    cfg = load('retinanet_rest_small_coco', tmp_path)
    cfg.model.pretrained = 'torchvision://resnet50'
    train_from_scratch(cfg)
    assert cfg.model.pretrained is None
