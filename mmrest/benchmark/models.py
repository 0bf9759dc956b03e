"""What a benchmark runs: a backbone, or a whole model of a config with made-up annotations."""

from __future__ import annotations

import ast
import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from mmrest.config_nodes import is_pretrained, iterate_dicts, scope_of
from mmrest.engine.config_errors import explain_config_errors
from mmrest.errors import InputError, did_you_mean
from mmrest.lookup import config_names, config_path

# Of an image, in training.
_INSTANCES = 8
# beside init_cfg, where mmseg's models and mmdet's students name a file
_NAMES_OF_WEIGHTS = 'pretrained', 'teacher_ckpt'

# Model and images to nothing that matters, or in training to the loss.
Step = Callable[[nn.Module, Tensor], Any]


def parse_model(text: str) -> dict | str:
    """A registry's config from ``TYPE:key=value,key=value``, or the path of a config.

    Args:
        text: Also the name of a config that comes with the package.

    Raises:
        InputError: It is none of these.
    """
    if text.endswith('.py'):
        return text
    if text in config_names():
        return config_path(text)
    kind, _, arguments = text.partition(':')
    cfg = dict(type=kind)
    try:
        call = ast.parse(f'model({arguments})', mode='eval').body
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError('an argument without a name')
        for keyword in call.keywords:
            word = isinstance(keyword.value, ast.Name)
            cfg[keyword.arg] = (
                _as_word(keyword.value.id) if word else ast.literal_eval(keyword.value)
            )
    except (ValueError, SyntaxError) as error:
        raise InputError(
            f"{text}: write TYPE:key=value,key=value, for example 'ResFormer:arch=base,"
            "window_size=14,global_blocks=(2,5)', or a config"
        ) from error
    return cfg


def _as_word(word: str) -> str | bool:
    """A bare word is a string, so that a shell needs no quotes; or on or off, as in mmengine."""
    return {'true': True, 'false': False}.get(word, word)


def build_step(
    model: dict[str, Any] | str, shape: tuple[int, int], mode: str, batch_size: int
) -> tuple[nn.Module, Step]:
    """A model and what a step does with it.

    A backbone's training step is the backward pass from the mean of every output. A whole model is
    called as in training and testing: with its loss, or with the decoding of its predictions;
    annotations are made up, a few boxes with masks or a label map of random classes.

    Args:
        model: A backbone's config or the path of a whole model's.
        shape: (height, width) of the images.
        mode: ``'infer'`` or ``'train'``.
        batch_size: Images of a step.

    Raises:
        InputError: There is no such model, or it does not take these arguments.
    """
    if isinstance(model, dict):
        built = build_backbone(model)
        return built, _call if mode == 'infer' else _average
    built = build_whole(model)
    return built, _WholeStep(built, shape, mode, batch_size)


def build_backbone(cfg: dict[str, Any]) -> nn.Module:
    """A backbone from the registry of the package that its type names, or of any module.

    Args:
        cfg: Its type is a registered name, with ``mmdet.`` or ``mmseg.`` before it for theirs, or
            a class or function of a module that can be imported, ``package.module.Backbone``.

    Raises:
        InputError: There is no such backbone, or it does not take these arguments.
    """
    scope, _, name = cfg['type'].rpartition('.')
    if not name:
        raise InputError(f'{cfg["type"]!r} names no backbone; write one as ResT:arch=small')
    if scope in ('mmdet', 'mmseg'):
        init_default_scope(scope)
    try:
        if MODELS.get(cfg['type']) is not None:
            built = MODELS.build(dict(cfg))
        else:
            arguments = {key: value for key, value in cfg.items() if key != 'type'}
            built = _from_module(scope, name)(**arguments)
    except InputError:
        raise
    except Exception as error:  # whatever a class says of arguments that it does not know
        raise InputError(f'{cfg}: {type(error).__name__}: {error}') from error
    if not isinstance(built, nn.Module):
        raise InputError(f'{cfg} makes {type(built).__name__}, and no model')
    return built


def _from_module(module: str, name: str) -> Callable[..., nn.Module]:
    """A class or function of a module.

    Raises:
        InputError: There is none.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: no module's name
        reason = f' ({error})' if module else ''
        hint = '' if module else did_you_mean(name, MODELS.module_dict, most=2)
        raise InputError(
            f"no backbone {module}{'.' if module else ''}{name} is registered{reason}; mmdet's "
            "and mmseg's are written mmdet.ResNet or mmseg.ResNet, one of your own as "
            f'my_package.my_module.MyBackbone{hint}'
        ) from error


def build_whole(path: str) -> nn.Module:
    """The detector or segmentor of a config, with initial weights.

    Raises:
        InputError: There is no such file, it describes no model, or one that cannot be built.
    """
    cfg = read_config(path)
    init_default_scope(scope_of(cfg) or 'mmdet')
    # it would name every parameter
    MMLogger.get_current_instance().setLevel('ERROR')
    with explain_config_errors():
        model = MODELS.build(_alone(cfg.model))
        model.init_weights()
    return model


def read_config(path: str) -> Config:
    """The config of a whole model.

    Raises:
        InputError: There is no such file, or it describes no model.
    """
    try:
        cfg = Config.fromfile(path)
    except (OSError, SyntaxError) as error:
        raise InputError(f'{path} cannot be read: {error}') from error
    if 'model' not in cfg:
        raise InputError(f'{path} describes no model')
    return cfg


def build_outline(cfg: Config) -> nn.Module:
    """The detector or segmentor of a config without numbers: on the meta device, in eval mode.

    Some of mmdet's and mmseg's classes compute with numbers while they are built. These are built
    on the processor first.

    Raises:
        InputError: It cannot be built.
    """
    with DefaultScope.overwrite_default_scope(scope_of(cfg)), explain_config_errors():
        try:
            with torch.device('meta'):
                model = MODELS.build(_alone(cfg.model))
        except Exception:  # the second time the true reason is raised
            model = MODELS.build(_alone(cfg.model)).to('meta')
    model = revert_sync_batchnorm(model)
    model.eval()  # whose result mmdet's classes do not all return
    return model


def _alone(cfg: Any) -> Any:
    """A model's config without weights to load, and without what needs several processes."""
    cfg = copy.deepcopy(cfg)
    for node in iterate_dicts(cfg):
        given = node.get('init_cfg')
        entries = given if isinstance(given, list | tuple) else [given]
        if any(is_pretrained(entry) for entry in entries):
            node['init_cfg'] = [entry for entry in entries if not is_pretrained(entry)] or None
        for name in _NAMES_OF_WEIGHTS:
            if isinstance(node.get(name), str):
                node[name] = None
        if node.get('type') == 'MMSyncBN':
            node['type'] = 'BN'
    return cfg


def _call(model: nn.Module, images: Tensor) -> None:
    model(images)


def _average(model: nn.Module, images: Tensor) -> Tensor:
    return sum(level.float().mean() for level in model(images))


class _WholeStep:
    """A whole model's step, with its annotations."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, int], mode: str, batch_size: int
    ) -> None:
        generator = np.random.default_rng(0)
        make = _segment_sample if hasattr(model, 'decode_head') else _detection_sample
        self.mode = 'predict' if mode == 'infer' else 'loss'
        self.samples = [make(model, shape, generator) for _ in range(batch_size)]

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor | None:
        samples = [sample.to(images.device) for sample in self.samples]
        results = model(images, samples, mode=self.mode)
        return model.parse_losses(results)[0] if self.mode == 'loss' else None


def image_meta(shape: tuple[int, int]) -> dict[str, Any]:
    """What a data sample says of an image (height, width) that was neither resized nor padded."""
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
    return dict(**sizes, scale_factor=(1.0, 1.0), img_path='', img_id=0)


def _segment_sample(
    model: nn.Module, shape: tuple[int, int], generator: np.random.Generator
) -> Any:
    from mmseg.structures import SegDataSample

    classes = model.decode_head.num_classes
    labels = torch.from_numpy(generator.integers(0, classes, (1, *shape)))
    return SegDataSample(metainfo=image_meta(shape), gt_sem_seg=PixelData(data=labels))


def _detection_sample(
    model: nn.Module, shape: tuple[int, int], generator: np.random.Generator
) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = shape
    corners = generator.uniform(0, 0.7, (_INSTANCES, 2)) * (width, height)
    boxes = np.hstack([corners, corners + 0.3 * np.array([width, height])]).astype(np.float32)
    masks = np.zeros((_INSTANCES, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    instances = InstanceData(
        bboxes=torch.from_numpy(boxes),
        labels=torch.zeros(_INSTANCES, dtype=torch.long),
        masks=BitmapMasks(masks, height, width),
    )
    return DetDataSample(metainfo=image_meta(shape), gt_instances=instances)
