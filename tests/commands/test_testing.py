from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmrest.commands.testing import dump_results, show_results, use_tta
from mmrest.errors import InputError

NEEDED = {'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'}


def config(dataset: dict[str, Any], **more: Any) -> Config:
    model = dict(type='RetinaNet')
    loader = dict(dataset=dataset)
    options = dict(default_scope='mmdet', model=model, test_dataloader=loader)
    return Config({**options, **more})


def coco(**pack: Any) -> dict[str, Any]:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64))]
    pipeline.append(dict(type='PackDetInputs', **pack))
    return dict(type='CocoDataset', ann_file='a.json', pipeline=pipeline)


WRAPPERS = {
    'alone': (lambda d: d, lambda d: [d]),
    'RepeatDataset': (lambda d: dict(type='RepeatDataset', dataset=d), lambda d: [d.dataset]),
    'ConcatDataset': (
        lambda d: dict(type='ConcatDataset', datasets=[d, coco()]),
        lambda d: list(d.datasets),
    ),
}


@pytest.mark.parametrize('pack', [{}, dict(meta_keys=('img_id', 'own'))])
@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_every_data_set_gives_the_views_with_what_merging_needs(wrapper: str, pack: dict) -> None:
    wrap, unwrap = WRAPPERS[wrapper]
    cfg = config(wrap(coco(**pack)))
    use_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module.type == 'RetinaNet'
    for dataset in unwrap(cfg.test_dataloader.dataset):
        flips, (packed,) = dataset.pipeline[-1].transforms
        assert [flip.prob for flip in flips] == [1.0, 0.0]
        assert {*packed.meta_keys} >= NEEDED | {*pack.get('meta_keys', ())}
        assert len(set(packed.meta_keys)) == len(packed.meta_keys)


LOAD = dict(type='LoadImageFromFile')
NORMALIZE = dict(type='Normalize', mean=[1.0], std=[1.0])


@pytest.mark.parametrize(
    ('first', 'more', 'said'),
    [
        (LOAD, [], ''),
        (dict(type='mmdet.LoadImageFromFile', backend_args=dict(backend='local')), [], ''),
        (dict(type='TestTimeAug', transforms=[[LOAD], [dict(type='PackDetInputs')]]), [], ''),
        (dict(LOAD, color_type='unchanged'), [], 'begins with'),
        (dict(type='LoadMultiChannelImageFromFiles'), [], 'begins with'),
        (LOAD, [NORMALIZE], 'only one of'),
    ],
)
def test_views_that_are_read_otherwise_than_a_test_are_told(
    first: dict, more: list[dict], said: str, capsys: pytest.CaptureFixture
) -> None:
    views = dict(type='TestTimeAug', transforms=[more, [dict(type='PackDetInputs')]])
    use_tta(config(coco(), tta_pipeline=[first, views]))
    assert ('warning: ' in (text := capsys.readouterr().err)) == bool(said)
    assert said in text


@pytest.mark.parametrize(
    ('option', 'change'), [('--tta', use_tta), ('--out', lambda cfg: dump_results(cfg, 'o.pkl'))]
)
def test_a_config_without_a_model_is_named(option: str, change: Callable) -> None:
    with pytest.raises(InputError, match=f'{option}: .* describes no model'):
        change(Config(dict(x=1)))


def test_a_segmentor_needs_its_own() -> None:
    with pytest.raises(InputError, match='needs tta_model and tta_pipeline'):
        use_tta(config(coco(), default_scope='mmseg'))


def test_masks_that_cannot_be_merged_are_named() -> None:
    evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'])
    with pytest.raises(InputError, match='masks of RTMDet with no RoI head cannot be merged'):
        use_tta(config(coco(), model=dict(type='RTMDet'), test_evaluator=evaluator))
    for kind in ('StandardRoIHead', 'CascadeRoIHead'):
        model = dict(type='MaskRCNN', roi_head=dict(type=kind, mask_head=dict(type='FCNMaskHead')))
        cfg = config(coco(), model=model, test_evaluator=evaluator)
        use_tta(cfg)
        assert cfg.model.type.endswith('MaskTTAModel')


@pytest.mark.parametrize('name', ['DetVisualizationHook', 'SegVisualizationHook'])
def test_pictures_are_shown_by_the_libraries_hooks(name: str) -> None:
    hooks = dict(visualization=dict(type=name))
    cfg = config(coco(), default_hooks=hooks)
    show_results(cfg, None, window=True, wait_time=0.5)
    # every picture: mmseg's hook takes one in 50
    every = dict(interval=1) if name.startswith('Seg') else {}
    shown = dict(type=name, draw=True, show=True, wait_time=0.5, **every)
    assert cfg.default_hooks.visualization == shown
    assert 'custom_hooks' not in cfg
    with pytest.raises(InputError, match=r"--show needs default_hooks\['visualization'\]"):
        show_results(config(coco()), None, window=True, wait_time=0.5)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            lambda cfg, at: dump_results(cfg, 'o.json'),
            r"--out o\.json: a detector's predictions go",
        ),
        (lambda cfg, at: dump_results(cfg, str(at)), r'o\.pkl exists; name another file'),
        (lambda cfg, at: show_results(cfg, str(at.parent / 'vis'), False, 0), 'needs a visualizer'),
        (
            lambda cfg, at: cfg.test_dataloader.dataset.pop('pipeline') and use_tta(cfg),
            'needs a test_dataloader whose data set has a pipeline',
        ),
    ],
)
def test_what_a_test_cannot_do_is_named(change: Callable, said: str, tmp_path: Path) -> None:
    (tmp_path / 'o.pkl').write_bytes(b'old')
    with pytest.raises(InputError, match=said):
        change(config(coco(), test_evaluator=dict(type='CocoMetric')), tmp_path / 'o.pkl')
    assert (tmp_path / 'o.pkl').read_bytes() == b'old'
    assert not (tmp_path / 'vis').exists()
