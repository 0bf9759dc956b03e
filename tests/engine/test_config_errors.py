from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, LOOPS, MODELS
from mmengine.runner import Runner
from torch import nn

from mmrest.commands import load_config, prepare_data
from mmrest.commands.cli import require_buildable_model, require_run, use_amp
from mmrest.commands.settings import require_sound_settings
from mmrest.config_nodes import task_model
from mmrest.engine.config_errors import explain_config_errors
from mmrest.errors import InputError
from tests.conftest import ROOT
from tests.shipped import NAMES


class Broken:
    def __init__(self, **kwargs: object) -> None:
        raise TypeError('a bug of its own')


class CallsWrongly:
    def __init__(self) -> None:
        raise TypeError("forward() got an unexpected keyword argument 'mode'")


MODELS.register_module('BrokenOfTheTest', module=Broken)
MODELS.register_module('CallsWronglyOfTheTest', module=CallsWrongly)
KINDS = ['ResT', 'ResTV2', 'ResFormer']


def test_a_class_that_the_package_does_not_offer_is_told_from_an_unknown_one() -> None:
    with (
        pytest.raises(InputError, match=r'BrokenOfTheTest is registered, but mmrest/api\.py'),
        explain_config_errors(),
    ):
        MODELS.build(dict(type='mmrest.BrokenOfTheTest'))
    with pytest.raises(InputError, match='did you mean ResT'), explain_config_errors():
        MODELS.build(dict(type='mmrest.ResTT'))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    ('argument', 'meant'),
    [('archh', 'arch'), ('out_indexes', 'out_indices'), ('frozen_stage', 'frozen_stages')],
)
def test_a_misspelt_argument_names_the_nearest(kind: str, argument: str, meant: str) -> None:
    with (
        pytest.raises(InputError, match=rf"{kind} an argument '{argument}'.*did you mean {meant}"),
        explain_config_errors(),
    ):
        MODELS.build({'type': kind, argument: 1})


@pytest.mark.parametrize(('kind', 'meant'), [('ResTT', 'ResT'), ('ResFormr', 'ResFormer')])
def test_a_misspelt_type_names_the_nearest(kind: str, meant: str) -> None:
    with (
        pytest.raises(InputError, match=f'{kind} is no model .*did you mean .*{meant}'),
        explain_config_errors(),
    ):
        MODELS.build(dict(type=kind))


def test_an_argument_like_no_other_shows_those_that_there_are() -> None:
    said = r"SGD an argument 'learning_rate'.*; it has .*dampening, .*lr, .*momentum"
    model = torch.nn.Linear(1, 1)
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', learning_rate=1))
    with pytest.raises(InputError, match=said), explain_config_errors():
        build_optim_wrapper(model, wrapper)


def test_arguments_of_a_class_that_a_base_sets_are_told_with_the_mend() -> None:
    said = r"ResT arguments 'depth', 'style', .*_delete_=True"
    with pytest.raises(InputError, match=said), explain_config_errors():
        MODELS.build(dict(type='mmrest.ResT', arch='lite', depth=50, style='pytorch'))


def test_annotations_that_are_no_json_are_named(tmp_path: Path) -> None:
    (tmp_path / 'a.json').write_text('{"images": [],}')
    data = dict(type='CocoDataset', data_root=str(tmp_path), ann_file='a.json', _scope_='mmdet')
    said = r'JSONDecodeError: .*, of .*a\.json'
    with pytest.raises(InputError, match=said), explain_config_errors():
        DATASETS.build(data)


def test_what_is_no_dictionary_is_told_with_its_place() -> None:
    said = 'a model of the config is None in the place of'
    with pytest.raises(InputError, match=said), explain_config_errors():
        MODELS.build(None)


def test_an_optimizers_arguments_of_a_base_are_told_with_the_mend() -> None:
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1, betas=(0.9, 0.99)))
    said = r"SGD an argument 'betas'.*_delete_=True"
    with pytest.raises(InputError, match=said), explain_config_errors():
        build_optim_wrapper(torch.nn.Linear(1, 1), wrapper)


def test_the_palette_of_a_base_is_told_with_the_mend(tmp_path: Path) -> None:
    metainfo = dict(classes=('a', 'b'), palette=[[0, 0, 0]])
    data = dict(type='BaseSegDataset', _scope_='mmseg', metainfo=metainfo, lazy_init=True)
    said = r'palette does not match classes; write metainfo=dict\(classes=\.\.\., palette='
    with pytest.raises(InputError, match=said), explain_config_errors():
        DATASETS.build(dict(data, data_root=str(tmp_path)))


def test_a_model_at_several_resolutions_needs_one() -> None:
    with pytest.raises(InputError, match=r'write model=_base_\.model into it'):
        task_model(Config(dict(model=dict(type='MultiResolution', scales=[1.0]))))


def test_a_loop_is_named_by_its_place_in_the_config() -> None:
    said = r"gives EpochBasedTrainLoop \(train_cfg\) an argument 'max_epoch'.*mean max_epochs"
    with pytest.raises(InputError, match=said), explain_config_errors():
        LOOPS.build(dict(type='EpochBasedTrainLoop', max_epoch=1))
    said = r"gives ValLoop \(val_cfg\) no .*'evaluator', which it needs"
    with pytest.raises(InputError, match=said), explain_config_errors():
        LOOPS.build(dict(type='ValLoop'))


def test_of_an_assertion_that_says_nothing_its_code_is_shown() -> None:
    said = r'FPN of the config .*AssertionError: assert isinstance\(in_channels, list\)'
    neck = dict(type='mmdet.FPN', in_channels=64, out_channels=8, num_outs=4)
    with pytest.raises(InputError, match=said), explain_config_errors():
        MODELS.build(neck)


def test_a_missing_argument_is_named() -> None:
    with (
        pytest.raises(InputError, match=r"gives SimpleFPN no 'in_channels'"),
        explain_config_errors(),
    ):
        MODELS.build(dict(type='SimpleFPN'))


def test_what_a_class_says_itself_is_told_with_the_place() -> None:
    said = (
        r'the Broken of the config cannot be built: TypeError: a bug .*test_config_errors\.py:\d+'
    )
    with pytest.raises(InputError, match=said), explain_config_errors():
        MODELS.build(dict(type='BrokenOfTheTest'))
    with pytest.raises(InputError, match=r'has no type: .*interval'), explain_config_errors():
        MODELS.build(dict(interval=1))


@pytest.mark.parametrize('error', [KeyError('a'), TypeError('b'), ValueError('c')])
def test_errors_of_a_run_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explain_config_errors():
        raise error
    assert raised.value is error


def test_an_argument_that_the_config_did_not_give_is_no_fault_of_it() -> None:
    with pytest.raises(TypeError, match="'mode'") as raised, explain_config_errors():
        MODELS.build(dict(type='CallsWronglyOfTheTest'))
    assert not isinstance(raised.value, InputError)


def small(**options: object) -> Config:
    """A config that can be run, with options in dotted form."""
    path = str(ROOT / 'configs/retinanet_rest_lite_shapes.py')
    return load_config(path, {key.replace('__', '.'): value for key, value in options.items()})


SECTIONS = (
    *('model', 'optim_wrapper', 'train_cfg', 'val_cfg', 'test_cfg', 'env_cfg', 'visualizer'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator'),
    *('default_hooks', 'default_hooks.timer', 'default_hooks.checkpoint', 'log_processor'),
    *('randomness', 'auto_scale_lr', 'built_in_data', 'model_wrapper_cfg'),
    *('param_scheduler', 'env_cfg.dist_cfg', 'model.backbone', 'optim_wrapper.optimizer'),
    *('train_dataloader.dataset', 'model.data_preprocessor'),
)


@pytest.mark.parametrize('value', [5, 'text', [1]], ids=str)
@pytest.mark.parametrize('section', SECTIONS)
def test_a_section_that_is_something_else_is_named(section: str, value: object) -> None:
    with pytest.raises(InputError, match=rf'^{section}(\[0\])?=.* of the config must be dict'):
        small(**{section: value})


@pytest.mark.parametrize('name', ['default_scope', 'load_from', 'work_dir', 'launcher'])
def test_a_name_that_is_none_is_told(name: str) -> None:
    with pytest.raises(InputError, match=f'^{name}=5 of the config must be text'):
        small(**{name: 5})


def test_sections_that_are_left_out_are_left_alone() -> None:
    cfg = small(custom_hooks=[], param_scheduler=[], visualizer=None, default_hooks__timer=None)
    assert cfg.custom_hooks == []


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(custom_hooks=['a']), 'TypeError: hook should be an instance of Hook or dict'),
        (dict(randomness=5), 'TypeError: .*set_randomness.. argument after'),
        (dict(env_cfg=5), "AttributeError: 'int' object has no attribute 'get'"),
        (dict(log_processor=5), 'TypeError: log processor should be'),
    ],
)
def test_what_the_runner_itself_refuses_is_told_with_the_place(
    setting: dict, said: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(InputError, match=rf'^the config cannot be built: {said}.*runner\.py:\d+'),
        explain_config_errors(),
    ):
        Runner(nn.Linear(1, 1), str(tmp_path), **setting)


def test_a_type_that_is_no_name_is_told() -> None:
    with pytest.raises(InputError, match='a model of the config has type=5, which names no class'):
        require_buildable_model(small(model__type=5))


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(train_cfg__val_interval=0), 'train_cfg.val_interval=0 must be a whole number'),
        (
            dict(default_hooks__chekpoint__interval=1),
            'default_hooks.chekpoint has no type; did you mean checkpoint',
        ),
        (dict(train_cfg__max_epochs='two'), "train_cfg.max_epochs='two' is text"),
        (dict(optim_wrapper__optimizer__type='Adamw'), 'Adamw is no optimizer .*mean AdamW'),
        (
            dict(optim_wrapper__optimizer=dict(_delete_=True, type='SGD', lr=0.1)),
            'multiplies the weight decay .* has none: set its weight_decay',
        ),
        (dict(optim_wrapper__optimizer__lr='4e-4'), r"optim_wrapper: lr='4e-4' is text; .*1\.0e-3"),
        (dict(optim_wrapper__clip_grad__max_norm='abc'), "clip_grad.max_norm='abc' is no number"),
        (dict(param_scheduler__0__end='8'), "param_scheduler: end='8' is text"),
        (
            dict(param_scheduler=[dict(type='MultiStepLR', milestones=['1'])]),
            r"param_scheduler: milestones=\['1'\] is text",
        ),
        (dict(default_hooks__checkpoint__interval='1'), r"checkpoint.interval='1' is text"),
        (dict(default_hooks__checkpoint__max_keep_ckpts='2'), r"max_keep_ckpts='2' is text"),
        (dict(train_cfg__max_epoch=2), r"\(train_cfg\) an argument 'max_epoch', .*mean max_epochs"),
        (dict(val_cfg__fp_16=True), r"gives ValLoop \(val_cfg\) an argument 'fp_16', .*mean fp16"),
        (dict(log_level='INF'), "log_level='INF' is none; did you mean INFO"),
    ],
)
def test_settings_that_fail_only_later_are_refused(options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        require_run(small(**options), 'train')


def test_the_usual_loop_needs_no_options() -> None:
    cfg = small()
    cfg.test_cfg = {}
    require_run(cfg, 'test')
    cfg.test_cfg = None
    with pytest.raises(InputError, match='has no test_cfg'):
        require_run(cfg, 'test')


@pytest.mark.parametrize('with_validation', [True, False])
def test_a_training_of_no_length_is_told(
    with_validation: bool, capsys: pytest.CaptureFixture
) -> None:
    cfg = small(train_cfg__max_epochs=0)
    if not with_validation:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    require_run(cfg, 'train')
    assert 'warning: train_cfg.max_epochs=0 trains nothing' in capsys.readouterr().err


@pytest.mark.parametrize(
    'options',
    [
        dict(optim_wrapper__clip_grad__max_norm='inf'),
        dict(optim_wrapper__optimizer__type='torch.optim.AdamW'),
        dict(optim_wrapper__optimizer__type=torch.optim.AdamW),
        dict(train_cfg__val_interval=2),
        # is told with its place where it is built
        dict(optim_wrapper__paramwise_cfg=dict(_delete_=True, custom_keys=['backbone'])),
    ],
)
def test_what_mmengine_takes_is_taken(options: dict) -> None:
    require_sound_settings(small(**options), 'train')


def test_a_constructor_of_ones_own_is_taken() -> None:
    cfg = small(optim_wrapper__optimizer=dict(_delete_=True, type='SGD', lr=0.1))
    cfg.optim_wrapper.constructor = 'my_package.MyConstructor'  # as a config's file may
    require_sound_settings(cfg, 'train')


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({'param_scheduler.9.end': 3}, r'param_scheduler\.9\.end'),
        (
            {'model.backbone.arch.x': 3, 'train_cfg.max_epochs': 1},
            r'model\.backbone\.arch\.x cannot',
        ),
    ],
)
def test_options_that_cannot_be_merged_are_named(options: dict, named: str) -> None:
    with pytest.raises(InputError, match=f'--cfg-options {named}'):
        small(**options)


def test_an_option_of_a_misspelt_section_is_refused() -> None:
    with pytest.raises(InputError, match=r'no run reads train_cgf; did you mean train_cfg\?'):
        small(**{'train_cgf.max_epochs': 1})
    small(**{'of_my_hook.x': 1})  # which may read it


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('load_form', 'no run reads a setting of this name; did you mean load_from?'),
        ('resum', 'did you mean resume?'),
        ('train_pipeline.1.scales', 'train_pipeline is a variable of the config file'),
        ('model.test_cfg.score_th', 'the config has no score_th there; did you mean score_thr?'),
    ],
)
def test_options_that_may_change_nothing_are_told(
    option: str, said: str, capsys: pytest.CaptureFixture
) -> None:
    small(**{option: [(96, 64)] if 'scales' in option else 0.5})
    assert f'warning: --cfg-options {option}: ' in (told := capsys.readouterr().err)
    assert said in told


@pytest.mark.parametrize(
    'option',
    [
        *('load_from', 'custom_hooks'),
        *('model.backbone.drop_path_rate', 'model.backbone.with_cp', 'randomness.seed'),
        *('built_in_data.num_val', 'optim_wrapper.clip_grad.max_norm'),
        *('train_dataloader.dataset.pipeline.0.to_float32', 'env_cfg.cudnn_benchmark'),
        *('param_scheduler.0.end', 'default_hooks.checkpoint.save_last', 'auto_scale_lr.enable'),
    ],
)
def test_options_that_are_read_are_no_matter(option: str, capsys: pytest.CaptureFixture) -> None:
    of_their_kind = dict(load_from='a.pth', custom_hooks=[dict(type='EMAHook')])
    small(**{option: of_their_kind.get(option, 1)})
    assert not capsys.readouterr().err


def test_a_config_that_cannot_train_says_what_it_lacks(tmp_path: Path) -> None:
    cfg = small()
    cfg.train_dataloader = cfg.optim_wrapper = None
    with pytest.raises(InputError, match='has no train_dataloader and no optim_wrapper, so that'):
        require_run(cfg, 'train')
    with pytest.raises(InputError, match=r'--amp: .* has no optim_wrapper'):
        use_amp(cfg)
    cfg.built_in_data = dict(type='squares', root=str(tmp_path / 'data'))
    with pytest.raises(InputError, match="the only built-in data set is type='shapes'"):
        prepare_data(cfg, ['train'])


@pytest.mark.parametrize(
    ('command', 'option', 'said'),
    [
        (['train.py', 'CONFIG'], 'optim_wrapper.optimizer.type=Adamw', 'Adamw is no optimizer'),
        (['test.py', 'CONFIG', 'a.pth'], 'test_evaluator=None', 'so that it cannot test'),
        (['train.py', 'CONFIG'], 'model.backbone.arch=huge', 'huge'),
        (['test.py', 'CONFIG', 'a.pth'], 'model.backbone.type=mmrest.ResTT', 'did you mean'),
    ],
)
def test_settings_are_checked_before_data_are_made(
    command: list[str],
    option: str,
    said: str,
    run_tool: Callable[..., subprocess.CompletedProcess],
    tmp_path: Path,
) -> None:
    config = str(ROOT / 'configs/retinanet_rest_lite_shapes.py')
    (tmp_path / 'a.pth').write_bytes(b'')
    words = [config if word == 'CONFIG' else word for word in command]
    result = run_tool(*words, '--cfg-options', option, cwd=tmp_path)
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_a_misspelt_setting_in_a_config_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    base = ROOT / 'configs/retinanet_rest_lite_shapes.py'
    file = tmp_path / 'mine.py'
    file.write_text(f"_base_ = '{base}'\nload_form = 'a.pth'\nbase_lr = 1\nnum_classes = 5\n")
    load_config(str(file))
    said = capsys.readouterr().err
    assert said == f'warning: {file}: no run reads load_form; is it load_from?\n'


def test_no_shipped_config_has_a_misspelt_setting(capsys: pytest.CaptureFixture) -> None:
    for name in NAMES[::10]:
        load_config(str(ROOT / f'configs/{name}.py'))
    assert not capsys.readouterr().err


def test_a_loop_of_ones_own_may_have_any_length() -> None:
    cfg = small()
    cfg.train_cfg = dict(type='LoopOfTheTest', max_epochs='until it learns', val_interval=None)
    require_sound_settings(cfg, 'train')


def test_a_model_is_built_before_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small()
    before = cfg.to_dict()
    require_buildable_model(cfg)
    assert cfg.to_dict() == before
    cfg.model.backbone.arch = 'huge'
    with pytest.raises(InputError, match=r'unknown arch .?huge'):
        require_buildable_model(cfg)
    # mmengine's Runner has it beside the model, too
    cfg = small()
    cfg.data_preprocessor = {**cfg.model.pop('data_preprocessor'), 'mean': [1, 2, 3, 4]}
    with pytest.raises(InputError, match='DetDataPreprocessor'):
        require_buildable_model(cfg)
    # what only a run prepares is no matter yet
    monkeypatch.setattr('mmrest.commands.cli.MODELS', None)
    require_buildable_model(small())


def test_a_loop_that_takes_anything_may_have_anything() -> None:
    class Anything:
        def __init__(self, **options: object) -> None: ...

    cfg = small()
    cfg.train_cfg = dict(type=Anything, max_epoch=1)
    require_sound_settings(cfg, 'train')


def test_a_mistake_in_a_class_of_ones_own_is_told_with_its_own_place() -> None:
    class CallsALibrary(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.nn.Linear(3, 4)(torch.zeros(2, 5))

    said = (
        r'CallsALibrary of the config cannot be built: RuntimeError: .*test_config_errors\.py:\d+'
    )
    with pytest.raises(InputError, match=said), explain_config_errors():
        MODELS.build(dict(type=CallsALibrary))
