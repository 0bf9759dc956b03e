"""``--cfg-options`` are values: whatever is written there, no code is run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmrest.checkpoints.mmengine_loader import load_from_mmrest
from mmrest.commands import load_config
from mmrest.commands.cli import add_config_arguments
from mmrest.errors import InputError
from tests.conftest import ROOT

CODE = "__import__('pathlib').Path('{file}').touch()"
SPELLINGS = [
    '{code}',
    '[{code}]',
    '({code},)',
    '[1,({code},2)]',
    '{{"a": {code}}}',
    '{{{{ {code} }}}}',
    '{{{{_base_.{code}}}}}',
    '${{{code}}}',
    '$({code})',
    '`{code}`',
    'dict(a={code})',
    'lambda: {code}',
    '!!python/object/apply:os.system ["touch {file}"]',
    "f'{{{code}}}'",
]


@pytest.mark.parametrize('spelling', SPELLINGS)
@pytest.mark.parametrize('key', ['model.backbone.arch', '_base_'])
def test_no_option_runs_code(key: str, spelling: str, tmp_path: Path) -> None:
    file = tmp_path / 'ran'
    value = spelling.format(code=CODE.format(file=file), file=file)
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    try:
        options = parser.parse_args(['--cfg-options', f'{key}={value}']).cfg_options
        cfg = load_config(str(ROOT / 'configs/retinanet_rest_lite_shapes.py'), options)
        Config(cfg.to_dict()).pretty_text  # noqa: B018  (formats what was given)
    except (Exception, SystemExit):
        pass  # it may be refused
    assert not file.exists()


def with_options(options: dict) -> Config:
    return load_config(str(ROOT / 'configs/retinanet_rest_lite_shapes.py'), options)


@pytest.mark.parametrize(
    'options',
    [
        {'model.backbone.type': 'os.system'},
        {'model.backbone': dict(type='os.system', command='touch ran')},
        {'custom_hooks': [dict(type='subprocess.Popen', args=['touch', 'ran'])]},
        {'train_dataloader.dataset.type': 'builtins.eval'},
        {'model.backbone.type': 'torch.hub.load'},
        {'optim_wrapper.optimizer.type': 'mmengine.utils.package_utils.install_package'},
        {'model.backbone.type': 'mmengine.mkdir_or_exist'},
        {'model.type': 'mmengine.Config.fromfile', 'model.filename': 'evil.py'},
        {'default_hooks.timer.type': 'mmengine.config.Config.fromfile'},
        {'optim_wrapper.constructor': 'os.system'},
        {'runner_type': 'os.system'},
        # classes that start processes: torch's own, and one that a module has of another
        {'model.type': 'torch.distributed.elastic.multiprocessing.api.SubprocessHandler'},
        {'model.type': 'torch.utils.data.dataloader.python_multiprocessing.Process'},
        {'model.type': 'mmengine.utils.package_utils.subprocess.Popen'},
        {'model.type': 'torch.nn.parallel.distributed.defaultdict'},
        {'test_evaluator': [dict(metric=dict(type='runpy.run_path'))]},
        # a registry looks up by itself what is behind a scope, and imports a scope
        {'default_hooks.timer.type': 'mmseg.os.system'},
        {'model.backbone.type': 'mmdet.os.system'},
        {'model.data_preprocessor.type': 'mmdet.subprocess.getoutput'},
        {'default_hooks.timer._scope_': 'evil'},
        {'custom_hooks': [dict(type='Hook', _scope_='evil.module')]},
        {'default_scope': 'evil'},
        # classes that are given a config and run it
        {'model.backbone.type': 'mmdet.apis.DetInferencer'},
        {'model.backbone.type': 'mmdet.apis.det_inferencer.DetInferencer'},
        {'model.backbone.type': 'mmengine.infer.infer.BaseInferencer'},
        {'model.type': 'mmengine.runner.Runner'},
        {'model.type': 'mmengine.Config'},
    ],
    ids=str,
)
def test_an_option_names_no_function_of_a_library(options: dict) -> None:
    with pytest.raises(InputError, match='is no class of PyTorch, of OpenMMLab or'):
        with_options(options)


@pytest.mark.parametrize(
    'name',
    [
        'mmdet.ResNet',
        'mmrest.ResT',
        'mmdet.models.backbones.ResNet',
        'mmengine.optim.OptimWrapper',
        'torch.optim.AdamW',
        'tests.checkpoints.test_whole_models.Toy',
        'mmengine.dataset.default_collate',
        'mmengine._strategy.DDPStrategy',
    ],
)
def test_an_option_may_name_classes(name: str, tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(
        "_base_ = 'mmrest::retinanet_rest_lite_shapes.py'\n"
        "custom_imports = dict(imports=['mmrest', 'tests.multires.models'])"
    )
    option = {'optim_wrapper.optimizer.type': name}
    assert load_config(str(file), option).optim_wrapper.optimizer.type == name


@pytest.mark.parametrize(
    'options',
    [
        {'model.teacher_config': 'evil.py'},
        {'model': dict(teacher_config='folder/EVIL.PY')},
        {'train_dataloader.dataset.proposal_file': 'evil.pkl'},
        {'train_dataloader.dataset': dict(ann_file='evil.pickle')},
        {'custom_hooks': [dict(type='Hook', extra_ann_file=['a.json', 'evil.pkl'])]},
        {'train_dataloader.dataset.split_file': 'split'},
        {'train_dataloader.dataset.proposal_file': '../.pkl'},
        {'train_dataloader.dataset.proposal_file': 'pkl'},
        {'model.bbox_head.loss_cls.class_weight': 'evil.yaml'},
        {'model.teacher_config': 'evil.json'},
        {'train_dataloader.dataset.pipeline.0.decode_backend': 'pickle'},
        {'model.warp_mode': "exec('import\tos')"},
        {'model.test_cfg.nms.type': '[print(1)][0]'},
        {'model.iou_calculator': dict(warp_mode='[0\tfor\ta.b\tin\t[cv2.os]]')},
        {'custom_hooks': [dict(type='Hook', search_op='x\tif\ty[0]\telse\tz')]},
        {'train_dataloader.dataset.meta_file': 'metas.bin'},
        {'default_hooks.checkpoint.backend_args': dict(backend='memcached', sys_path='evil')},
        {'default_hooks.checkpoint.backend_args.sys_path': 'evil'},
    ],
    ids=str,
)
def test_an_option_names_no_file_that_is_run_or_unpickled(options: dict) -> None:
    with pytest.raises(InputError, match='can run code; a config may name it, an option not'):
        with_options(options)


@pytest.mark.parametrize(
    'options',
    [
        {'experiment_name': '{{$N:a|\\\'%print(1)#"}}'},
        {'experiment_name': '{{ fileDirname }}'},
        {'train_dataloader.dataset.metainfo': {'{{_base_.model}}': 1}},
        {'visualizer.vis_backends': [dict(init_kwargs=dict(group='{{x}}'))]},
    ],
    ids=str,
)
def test_an_option_holds_nothing_that_a_config_would_fill(options: dict) -> None:
    with pytest.raises(InputError, match=r'mmengine fills what is in {{\.\.\.}} whenever it'):
        with_options(options)


def test_an_option_names_checkpoints_and_what_is_written() -> None:
    options = {
        'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='detectron2.pkl'),
        'test_evaluator.outfile_prefix': 'results.pkl',
        'test_evaluator.proposals_file': 'proposals.pkl',
        'default_hooks.visualization.test_out_dir': 'x.py',
        'work_dir': 'run(1)',
        'load_from': 'run(1)/detectron2.pkl',
        'experiment_name': 'rest(1)',
        'default_hooks.checkpoint.out_dir': 'out(1)',
        'visualizer.vis_backends': [dict(type='W', init_kwargs=dict(project='my(run)'))],
        'train_dataloader.dataset': dict(
            ann_file='data(1)', metainfo=dict(classes=('car (red)', 'py'))
        ),
        'optim_wrapper.paramwise_cfg.custom_keys': {'norm (all)': dict(decay_mult=0.0)},
    }
    assert with_options(options).load_from == 'run(1)/detectron2.pkl'


def test_models_that_read_weights_while_they_are_built_read_them_safely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict.fromkeys(CheckpointLoader._schemes))
    with_options({})
    assert set(CheckpointLoader._schemes.values()) == {load_from_mmrest}


@pytest.mark.parametrize('key', ['custom_imports.imports', 'custom_imports', '_base_'])
def test_an_option_adds_no_file_or_module_to_a_config(key: str) -> None:
    with pytest.raises(InputError, match='is read with the config, before any option is'):
        with_options({key: ['os'], 'model.backbone.type': 'os.system'})


@pytest.mark.parametrize(
    'key',
    [
        "env_cfg.a'+print(1)+'b",
        'env_cfg.a"b',
        'env_cfg.a\nb',
        'env_cfg.a\\',
        'env_cfg.',
        'print(1)',
        'a b',
        "model.backbone.x'.y",
    ],
)
def test_an_option_is_a_name_where_it_is_written_into_a_file(key: str) -> None:
    with pytest.raises(InputError, match='a name is of letters, digits, _ and -'):
        with_options({key: 1})


@pytest.mark.parametrize(
    ('key', 'meant'),
    [('max_epochs', 'train_cfg'), ('dist_cfg', 'env_cfg'), ('batch_sampler', 'train_dataloader')],
)
def test_an_option_that_has_lost_its_section_names_it(key: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf'no run reads {key}; did you mean {meant}\.{key}\?'):
        with_options({key: 1})
