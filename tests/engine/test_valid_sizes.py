"""A detector tells its backbone which part of a padded batch is image."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmrest import ResT
from mmrest.commands import load_config, move_data_root
from mmrest.engine.valid_sizes import ValidSizesHook, use_valid_sizes
from mmrest.errors import InputError
from tests.conftest import ROOT
from tests.test_configs import build

CONFIG = str(ROOT / 'configs/retinanet_rest_lite_shapes.py')


def detector() -> nn.Module:
    return build(load_config(CONFIG)).eval()


def backbone_maps(model: nn.Module, images: list[Tensor]) -> tuple[Tensor, ...]:
    """The backbone's maps while the detector predicts images of different sizes."""
    from mmdet.structures import DetDataSample

    samples = [
        DetDataSample(
            metainfo=dict(
                img_shape=image.shape[-2:], ori_shape=image.shape[-2:], scale_factor=(1.0, 1.0)
            )
        )
        for image in images
    ]
    seen = []
    handle = model.backbone.register_forward_hook(lambda *args: seen.append(args[-1]))
    with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
        model.test_step(dict(inputs=images, data_samples=samples))
    handle.remove()
    return seen[0]


def test_a_neighbour_in_the_batch_changes_nothing() -> None:
    model = detector()
    small, large = (torch.randint(256, (3, *size)).byte() for size in ((50, 60), (70, 64)))
    alone = backbone_maps(model, [small])
    leaking = backbone_maps(model, [small, large])
    use_valid_sizes(model)
    use_valid_sizes(model)
    together = backbone_maps(model, [small, large])
    for expected, level, other in zip(alone, together, leaking, strict=True):
        part = (slice(0, 1), slice(None), *(slice(side) for side in expected.shape[-2:]))
        torch.testing.assert_close(level[part], expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(other[part], expected, rtol=1e-2, atol=1e-2)
    # an image that is not padded takes the ordinary way, and the sizes are forgotten afterwards
    for level, expected in zip(backbone_maps(model, [small]), alone, strict=True):
        assert torch.equal(level, expected)
    assert model.backbone(torch.randn(1, 3, 32, 32))[0][..., -1].any()


def test_an_error_on_the_way_forgets_the_sizes() -> None:
    model = detector()
    use_valid_sizes(model)
    model.bbox_head = None
    images = [torch.zeros(3, size, 32, dtype=torch.uint8) for size in (20, 32)]
    with pytest.raises(AttributeError):
        backbone_maps(model, images)
    assert model.backbone._valid_sizes is None


def test_a_runner_does_it_by_a_hook(shapes_root: Path, tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    move_data_root(cfg, str(shapes_root))
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks = [dict(type='ValidSizesHook')]
    cfg.train_dataloader.dataset.indices = 4
    cfg.train_cfg.update(max_epochs=1, val_interval=2)
    runner = Runner.from_cfg(cfg)
    seen = []
    backbone = runner.model.backbone
    backbone.register_forward_hook(lambda module, *_: seen.append(module._valid_sizes))
    runner.train()
    assert any(sizes is not None for sizes in seen)
    assert backbone._valid_sizes is None


def test_test_time_augmentation_is_looked_through() -> None:
    model = detector()
    with DefaultScope.overwrite_default_scope('mmdet'):
        use_valid_sizes(MODELS.build(dict(type='DetTTAModel', module=model)))
    assert model._forward_pre_hooks


def test_copies_and_files_of_a_model_keep_it(tmp_path: Path) -> None:
    model = detector()
    use_valid_sizes(model)
    small, large = (torch.randint(256, (3, *size)).byte() for size in ((50, 60), (70, 64)))
    expected = backbone_maps(model, [small, large])
    torch.save(model, tmp_path / 'model.pth')
    saved = torch.load(tmp_path / 'model.pth', weights_only=False)
    for other in (copy.deepcopy(model), saved):
        for level, same in zip(backbone_maps(other, [small, large]), expected, strict=True):
            torch.testing.assert_close(level, same)


def test_windows_that_slide_are_taken_as_they_are() -> None:
    from mmseg.structures import SegDataSample

    cfg = load_config(str(ROOT / 'configs/upernet_rest_lite_shapes.py'))
    cfg.model.test_cfg = dict(mode='slide', crop_size=(40, 40), stride=(24, 24))
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    model = build(cfg).eval()
    use_valid_sizes(model)
    samples = [SegDataSample(metainfo=dict(img_shape=(50, 60), ori_shape=(50, 60)))]
    images = [torch.randint(256, (3, 50, 60)).byte()]
    with torch.no_grad():
        predicted = model.test_step(dict(inputs=images, data_samples=samples))
    assert predicted[0].pred_sem_seg.data.shape[-2:] == (50, 60)


def test_other_backbones_are_refused() -> None:
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match='backbones of mmrest'):
        use_valid_sizes(model)


@pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
@pytest.mark.parametrize('world_size', [1, 2])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_processes_do_not_wait_for_each_other(norm: str, world_size: int, norm_eval: bool) -> None:
    """A backbone is called once a size, and a SyncBN must be called equally often everywhere."""
    model = nn.Module()
    model.backbone = ResT('lite', norm_cfg=dict(type=norm), norm_eval=norm_eval)
    runner = SimpleNamespace(model=model, world_size=world_size)
    if norm == 'BN' or world_size == 1 or norm_eval:
        ValidSizesHook().before_train(runner)
        return
    with pytest.raises(InputError, match='is a SyncBN, which all processes must call equally'):
        ValidSizesHook().before_train(runner)
