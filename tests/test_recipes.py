"""Every recipe in literal numbers, from the papers and the authors' released configs.

Sources: ResT (arXiv 2105.13677) Section 4.2, ResTv2 (arXiv 2204.07366) appendix, both with the
released configs of wofmanaf/ResT; ResFormer (arXiv 2212.00776) Section 4.3, whose optimizer is
ViTDet's (arXiv 2203.16527, appendix A.2) here; MViTv2 (arXiv 2112.01526) with
detectron2's projects/MViTv2; PVT and PVTv2 (whai362/PVT), Twins (Meituan-AutoML/Twins) and P2T
(yuhuan-wu/P2T) with their released configs; CSWin (arXiv 2107.00652), supplement, and its released
UPerNet configs; GPViT (ChenhongyiYang/GPViT) with its released configs; Swin by mmdet's and mmseg's
configs. What is ours says so in its config.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmdet
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrest.config_nodes import task_model
from tests.shipped import NAMES, on_meta, shipped

COCO_WARM_UP = (0.001, 1000)
ADE_WARM_UP = (1e-6, 1500)


@dataclass(frozen=True)
class Recipe:
    """What a config must come to.

    Attributes:
        lr: Of AdamW, for ``images`` a step.
        weight_decay: Of AdamW.
        length: Epochs of COCO, iterations of ADE20K.
        warm_up: Factor and iterations of a linear warm-up.
        steps: Epochs at which the rate falls to a tenth; None is linear decay to 0.
        clip: Largest norm of the gradients.
        short_sides: Of the training images on COCO; on ADE20K the crop; None is large-scale
            jittering to 1024x1024.
        drop_path: By variant.
        layer_decay: Learning rates relative to ``lr`` by layer, from the stem on.
        one_dimensional_decay: Biases and other 1-d parameters that are no norm's are decayed.
        amp: Mixed precision, where the authors say that they trained so.
        images: A step.
        on_a_gpu: Of them.
        undecayed: Parts of names of further parameters without decay.
        norm_decay: Norms are decayed too.
        power: Of the decay to ``last_lr``, where there are no ``steps``.
        last_lr: Learning rate at its end.
        divisor: Of the sides that COCO's images are padded to.
        sizes: Of the backbone.
        crops: Half of the images are resized and cropped before, as in DETR.
        last_crop: Of COCO's images, behind everything else.
        norms_by_name: The only norms without decay are those in ``undecayed``.
    """

    lr: float
    weight_decay: float
    length: int
    warm_up: tuple[float, int] | None
    steps: tuple[int, ...] | None
    clip: float | None
    short_sides: tuple[int, ...] | None
    drop_path: dict[str, float]
    layer_decay: tuple[float, ...] = ()
    one_dimensional_decay: bool = True
    amp: bool = False
    frozen: int = -1
    out_norm: str = 'branch'
    lr_factors: dict[str, float] = field(default_factory=dict)
    images: int = 16
    on_a_gpu: int = 2
    undecayed: tuple[str, ...] = ()
    norm_decay: bool = False
    power: float = 1.0
    last_lr: float = 0.0
    divisor: int = 1
    sizes: str = 'ceil'
    crops: bool = False
    last_crop: tuple[int, int] | None = None
    norms_by_name: bool = False


REST = dict(lite=0.1, small=0.1, base=0.2, large=0.2)
RESTV2 = dict(tiny=0.1, small=0.2, base=0.3, large=0.5)
RESFORMER = dict(tiny=0.1, small=0.1, base=0.1)
MVITV2 = dict(tiny=0.1, small=0.3, base=0.4, large_cls=0.5, huge_cls=0.6)
REST_SIDES = (640, 672, 704, 736, 768, 800)
COCO_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
RESTV2_SIDES = (480, 512, 534, 576, 640, 672, 704, 736, 768, 800)
VIT_DECAY = tuple(0.7**power for power in range(13, -1, -1))
COCO_1X = dict(lr=1e-4, weight_decay=0.05, length=12, warm_up=COCO_WARM_UP, steps=(8, 11))
COCO_3X = dict(lr=1e-4, weight_decay=0.05, length=36, warm_up=COCO_WARM_UP, steps=(28, 33))
VIT_3X = {**COCO_3X, 'weight_decay': 0.1, 'layer_decay': VIT_DECAY}
MVIT_3X = dict(
    lr=1.6e-4,
    weight_decay=0.1,
    length=36,
    warm_up=(0.001, 250),
    steps=(28, 33),
    clip=None,
    drop_path=MVITV2,
    amp=True,
    images=64,
)
ADE = dict(
    lr=6e-5, weight_decay=0.01, warm_up=ADE_WARM_UP, steps=None, clip=None, short_sides=(512, 512)
)
PVT_1X = dict(
    lr=1e-4,
    weight_decay=1e-4,
    length=12,
    warm_up=(0.001, 500),
    steps=(8, 11),
    clip=None,
    short_sides=(800,),
    norm_decay=True,
    divisor=32,
)
ONE_IMAGE = dict(images=8, on_a_gpu=1)
FOUR_IMAGES = dict(images=32, on_a_gpu=4)
SWIN_3X = {
    **COCO_3X,
    'warm_up': (0.001, 500),
    'steps': (27, 33),
    'clip': None,
    'short_sides': COCO_SIDES,
    'divisor': 32,
}
SWIN_1X = {**SWIN_3X, 'length': 12, 'steps': (8, 11)}
FPN = dict(
    lr=1e-4,
    weight_decay=1e-4,
    warm_up=None,
    steps=None,
    clip=None,
    short_sides=(512, 512),
    norm_decay=True,
    power=0.9,
)
GPVIT = dict(
    **{**ADE, 'lr': 1.2e-4},
    length=160000,
    images=32,
    drop_path=dict(l1=0.1, l2=0.1, l3=0.2, l4=0.2),
    undecayed=('pos_embed', 'group_token'),
    one_dimensional_decay=False,
)
GPVIT_COCO = dict(
    lr=2e-4,
    weight_decay=0.05,
    warm_up=(0.001, 500),
    amp=True,
    images=32,
    divisor=32,
    undecayed=('norm', 'bias', 'pos_embed', 'group_token', 'level_embed'),
    norms_by_name=True,
)
GPVIT_1X = dict(**GPVIT_COCO, length=12, steps=(8, 11), short_sides=(800,))
GPVIT_3X = dict(
    **GPVIT_COCO,
    length=36,
    steps=(27, 33),
    short_sides=COCO_SIDES,
    crops=True,
    last_crop=(1024, 1024),
)
GPVIT_L = dict(l1=0.1, l2=0.1, l3=0.1, l4=0.1)
# PVT, PVTv2 and P2T, by their variants
TENTHS = {
    **dict.fromkeys(('tiny', 'small', 'medium', 'large'), 0.1),
    **dict.fromkeys(('b0', 'b1', 'b2', 'b2_linear', 'b3', 'b4', 'b5'), 0.1),
}
# of PVT in detection
PVT_COCO = {**TENTHS, 'medium': 0.0, 'large': 0.0}
P2T = dict(tiny=0.1, small=0.1, base=0.3, large=0.3)
TWINS = dict(small=0.2, base=0.2, large=0.2)
SWIN = dict(tiny=0.2, small=0.2, base=0.3)
SWIN_ADE = dict.fromkeys(('tiny', 'small', 'base', 'large', 'base_384', 'large_384'), 0.3)
TABLES = ('relative_positions',)
CSWIN = dict(tiny=0.1, small=0.3, base=0.5)
RECIPES = {
    r'retinanet_rest_\w+_coco': Recipe(
        **COCO_1X, clip=None, short_sides=REST_SIDES, drop_path=REST, frozen=1, out_norm='trunk'
    ),
    r'mask_rcnn_rest_\w+_coco': Recipe(
        **COCO_1X, clip=0.01, short_sides=REST_SIDES, drop_path=REST, frozen=1, out_norm='trunk'
    ),
    r'mask_rcnn_restv2_\w+_coco': Recipe(
        **COCO_3X, clip=0.01, short_sides=RESTV2_SIDES, drop_path=RESTV2, amp=True
    ),
    r'retinanet_restv2_\w+_coco': Recipe(
        **COCO_3X, clip=None, short_sides=(384, 512, 640, 768, 896, 1024), drop_path=RESTV2
    ),
    r'mask_rcnn_resformer_\w+_coco': Recipe(
        **VIT_3X, clip=None, short_sides=RESTV2_SIDES, drop_path=RESFORMER
    ),
    r'retinanet_resformer_\w+_coco': Recipe(
        **VIT_3X, clip=None, short_sides=REST_SIDES, drop_path=RESFORMER
    ),
    r'deformable_detr_rest_small_coco': Recipe(
        lr=2e-4,
        weight_decay=1e-4,
        length=50,
        warm_up=COCO_WARM_UP,
        steps=(40,),
        clip=0.1,
        short_sides=REST_SIDES,
        drop_path=REST,
        frozen=1,
        # as mmdet's configs
        lr_factors={'backbone': 0.1, 'sampling_offsets': 0.1, 'reference_points': 0.1},
    ),
    r'(upernet|segformer)_restv2_tiny_ade20k': Recipe(**ADE, length=160000, drop_path=RESTV2),
    r'upernet_rest_\w+_ade20k': Recipe(**ADE, length=160000, drop_path={**REST, 'large': 0.2}),
    r'upernet_restv2_(small|base|large)_ade20k': Recipe(
        **{**ADE, 'lr': 1.5e-4, 'weight_decay': 0.05},
        length=160000,
        drop_path=RESTV2,
        layer_decay=(0.59049, 0.6561, 0.729, 0.81, 0.9, 1.0),
        one_dimensional_decay=False,
    ),
    r'upernet_resformer_(tiny|small)_ade20k': Recipe(**ADE, length=80000, drop_path=RESFORMER),
    r'(retinanet|mask_rcnn|cascade_mask_rcnn)_mvitv2_(tiny|small|base|small_no_fpn)_coco': Recipe(
        **MVIT_3X, short_sides=COCO_SIDES, crops=True
    ),
    r'cascade_mask_rcnn_mvitv2_huge_coco': Recipe(**MVIT_3X, short_sides=None),
    r'cascade_mask_rcnn_mvitv2_large_coco': Recipe(
        **{**MVIT_3X, 'lr': 1e-4, 'length': 50, 'steps': (44, 48)}, short_sides=None
    ),
    r'upernet_mvitv2_\w+_ade20k': Recipe(**ADE, length=160000, drop_path=MVITV2),
    r'upernet_resformer_base_ade20k': Recipe(**ADE, length=160000, drop_path=RESFORMER),
    r'retinanet_(pvt|pvtv2)_(?!large|b4|b5)\w+_coco': Recipe(**PVT_1X, drop_path=PVT_COCO),
    r'retinanet_p2t_\w+_coco': Recipe(**PVT_1X, drop_path=P2T),
    r'retinanet_(pvt_large|pvtv2_b4|pvtv2_b5)_coco': Recipe(
        **{**PVT_1X, **ONE_IMAGE, 'lr': 1e-4 / 1.4}, drop_path=PVT_COCO
    ),
    r'mask_rcnn_pvt(_(tiny|small|medium)|v2_(b0|b1|b2|b2_linear|b3))_coco': Recipe(
        **{**PVT_1X, 'lr': 2e-4}, drop_path=PVT_COCO
    ),
    r'mask_rcnn_(pvt_large|pvtv2_b4|pvtv2_b5)_coco': Recipe(
        **{**PVT_1X, **ONE_IMAGE, 'lr': 2e-4 / 1.4}, drop_path=PVT_COCO
    ),
    r'mask_rcnn_p2t_(tiny|small)_coco': Recipe(**PVT_1X, drop_path=P2T),
    r'mask_rcnn_p2t_(base|large)_coco': Recipe(**{**PVT_1X, 'clip': 10.0}, drop_path=P2T),
    r'retinanet_twins\w+_(small|base|large)_coco': Recipe(**PVT_1X, drop_path=TWINS),
    r'mask_rcnn_twins\w+_(small|base|large)_coco': Recipe(
        **{**PVT_1X, 'lr': 2e-4}, drop_path=TWINS
    ),
    r'retinanet_twins\w+_3x_coco': Recipe(
        **SWIN_3X, crops=True, drop_path=TWINS, undecayed=('.blocks.1.proj.',)
    ),
    r'mask_rcnn_twins\w+_3x_coco': Recipe(
        **SWIN_3X, crops=True, drop_path=TWINS, amp=True, undecayed=('.blocks.1.proj.',)
    ),
    r'(retinanet|mask_rcnn)_cswin_(tiny|small|base)_coco': Recipe(
        **COCO_1X, clip=None, short_sides=(800,), drop_path=CSWIN, divisor=32
    ),
    r'(cascade_)?mask_rcnn_cswin_\w+_3x_coco': Recipe(**SWIN_3X, drop_path=CSWIN),
    r'(retinanet|mask_rcnn)_swin_tiny_coco': Recipe(
        **SWIN_1X, crops=True, drop_path=dict(tiny=0.1), undecayed=TABLES
    ),
    r'cascade_mask_rcnn_swin_tiny_coco': Recipe(
        **SWIN_1X, crops=True, drop_path=dict(tiny=0.0), undecayed=TABLES
    ),
    r'(cascade_)?mask_rcnn_swin_\w+_3x_coco': Recipe(
        **SWIN_3X, crops=True, drop_path=SWIN, undecayed=TABLES
    ),
    r'upernet_swin_\w+_ade20k': Recipe(**ADE, length=160000, drop_path=SWIN_ADE, undecayed=TABLES),
    r'mask_rcnn_gpvitadapter_l\d_coco': Recipe(
        **GPVIT_1X, clip=None, drop_path=dict(GPVIT_L, l4=0.2)
    ),
    r'mask_rcnn_gpvitadapter_l\d_3x_coco': Recipe(
        **GPVIT_3X, clip=None, drop_path=dict(GPVIT_L, l3=0.2, l4=0.2)
    ),
    r'retinanet_gpvitadapter_l\d_coco': Recipe(**GPVIT_1X, clip=35.0, drop_path=GPVIT_L),
    r'retinanet_gpvitadapter_l\d_3x_coco': Recipe(
        **GPVIT_3X, clip=35.0, drop_path=dict(GPVIT_L, l3=0.2, l4=0.2)
    ),
    r'upernet_gpvit_\w+_ade20k': Recipe(**GPVIT),
    r'segformer_gpvit_\w+_ade20k': Recipe(**GPVIT, lr_factors={'decode_head': 10.0}),
    r'fpn_(pvt|pvtv2)_\w+_ade20k': Recipe(
        **{**FPN, **FOUR_IMAGES, 'lr': 2e-4}, length=40000, drop_path=TENTHS
    ),
    r'fpn_twinspcpvt_\w+_ade20k': Recipe(
        **{**FPN, **FOUR_IMAGES}, length=80000, drop_path=TWINS, sizes='floor'
    ),
    r'fpn_twinssvt_\w+_ade20k': Recipe(
        **{**FPN, **FOUR_IMAGES}, length=80000, drop_path=dict(TWINS, large=0.3), sizes='floor'
    ),
    r'fpn_p2t_(tiny|small)_ade20k': Recipe(**FPN, length=80000, drop_path=P2T, last_lr=1e-6),
    r'fpn_p2t_(base|large)_ade20k': Recipe(
        **{**FPN, 'clip': 35.0}, length=80000, drop_path=P2T, last_lr=1e-6
    ),
    r'fpn_cswin_\w+_ade20k': Recipe(**FPN, length=80000, drop_path=CSWIN),
    r'upernet_twinspcpvt_small_ade20k': Recipe(
        **{**ADE, **FOUR_IMAGES},
        length=160000,
        drop_path=TWINS,
        undecayed=('.blocks.1.proj.',),
        sizes='floor',
    ),
    r'upernet_twinspcpvt_(base|large)_ade20k': Recipe(
        **ADE, length=160000, drop_path=TWINS, undecayed=('.blocks.1.proj.',), sizes='floor'
    ),
    r'upernet_twinssvt_\w+_ade20k': Recipe(
        **ADE,
        length=160000,
        drop_path=dict(TWINS, large=0.3),
        undecayed=('.blocks.1.proj.',),
        sizes='floor',
    ),
    r'upernet_cswin_\w+_ade20k': Recipe(
        **ADE, length=160000, drop_path=dict(tiny=0.3, small=0.4, base=0.6)
    ),
}
# the built-in data set is a demonstration, not a recipe
CONFIGS = [name for name in NAMES if not name.endswith('_shapes')]


def recipe_of(name: str) -> Recipe:
    plain = name.replace('_mr_', '_')  # several resolutions change nothing else
    (found,) = [recipe for pattern, recipe in RECIPES.items() if re.fullmatch(pattern, plain)]
    return found


@pytest.mark.parametrize('name', CONFIGS)
def test_schedule(name: str) -> None:
    cfg, recipe = shipped(name), recipe_of(name)
    assert cfg.train_dataloader.batch_size == recipe.on_a_gpu
    assert cfg.auto_scale_lr.base_batch_size == recipe.images
    *warm_ups, decay = cfg.param_scheduler
    if recipe.warm_up is None:
        assert not warm_ups
    else:
        factor, end = recipe.warm_up
        warm_up = dict(type='LinearLR', start_factor=factor, by_epoch=False, begin=0, end=end)
        assert warm_ups == [warm_up]
    if recipe.steps is None:
        assert cfg.train_cfg.max_iters == recipe.length
        begin = recipe.warm_up[1] if recipe.warm_up else 0
        expected = dict(type='PolyLR', power=recipe.power, eta_min=recipe.last_lr, by_epoch=False)
        assert decay == dict(**expected, begin=begin, end=recipe.length)
    else:
        assert cfg.train_cfg.max_epochs == recipe.length
        expected = dict(type='MultiStepLR', gamma=0.1, by_epoch=True, begin=0, end=recipe.length)
        assert decay == dict(**expected, milestones=list(recipe.steps))
    clip = cfg.optim_wrapper.get('clip_grad')
    assert (clip and clip.max_norm) == recipe.clip
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if recipe.amp else 'OptimWrapper')
    # so that the type alone, changed on the command line, gives float32
    assert 'loss_scale' not in cfg.optim_wrapper


@pytest.mark.parametrize('name', CONFIGS)
def test_images(name: str) -> None:
    pipeline, recipe = shipped(name).train_pipeline, recipe_of(name)
    steps = {step.type: step for step in pipeline}
    if recipe.crops:
        plain, cropped = steps['RandomChoice'].transforms
        assert [short for _, short in cropped[0].scales] == [400, 500, 600]
        assert (cropped[1].crop_type, tuple(cropped[1].crop_size)) == ('absolute_range', (384, 600))
        assert plain == cropped[2:]
        steps['RandomChoiceResize'] = plain[0]
    if name.endswith('coco') and recipe.short_sides is None:
        assert tuple(steps['RandomResize'].scale) == (1024, 1024)
        assert tuple(steps['RandomResize'].ratio_range) == (0.1, 2.0)
        assert tuple(steps['RandomCrop'].crop_size) == (1024, 1024)
        (padded,) = shipped(name).model.data_preprocessor.batch_augments
        assert tuple(padded['size']) == (1024, 1024)
    elif name.endswith('coco'):
        scales = steps['RandomChoiceResize'].scales
        assert tuple(short for _, short in scales) == recipe.short_sides
        assert {longest for longest, _ in scales} == {1333}
        if re.match(r'mask_rcnn_(rest|restv2|resformer)_', name):
            assert steps['RandomCrop'].crop_type == 'relative'
            assert tuple(steps['RandomCrop'].crop_size) == (0.9, 0.9)
            assert steps['RandomCrop'].recompute_bbox
        else:
            crop = steps.get('RandomCrop')
            assert (crop and tuple(crop.crop_size)) == recipe.last_crop
            assert not crop or crop.crop_type == 'absolute_range'
    else:
        assert tuple(steps['RandomCrop'].crop_size) == recipe.short_sides
        assert steps['RandomCrop'].cat_max_ratio == 0.75
        assert tuple(steps['RandomResize'].scale) == (2048, 512)
        assert tuple(steps['RandomResize'].ratio_range) == (0.5, 2.0)
        aligned = [s for s in shipped(name).test_pipeline if s.type == 'ResizeToMultiple']
        assert bool(aligned) == bool(re.search('_(pvt|pvtv2|p2t|gpvit)_', name))


@pytest.mark.parametrize('name', CONFIGS)
def test_images_of_tests(name: str) -> None:
    resize = {step.type: step for step in shipped(name).test_pipeline}['Resize']
    assert tuple(resize.scale) == ((1333, 800) if name.endswith('coco') else (2048, 512))
    assert resize.keep_ratio


@pytest.mark.parametrize('name', CONFIGS)
def test_backbone(name: str) -> None:
    backbone, recipe = task_model(shipped(name)).backbone, recipe_of(name)
    # of the authors' models only MViTv2's huge recomputes its blocks
    assert backbone.get('with_cp', False) == (name == 'cascade_mask_rcnn_mvitv2_huge_coco')
    assert backbone.drop_path_rate == recipe.drop_path[backbone.arch]
    assert backbone.get('frozen_stages', -1) == recipe.frozen
    assert backbone.get('out_norm', 'branch') == recipe.out_norm
    assert backbone.get('sizes', 'ceil') == recipe.sizes
    assert task_model(shipped(name)).data_preprocessor.get('pad_size_divisor', 1) == recipe.divisor


@pytest.mark.parametrize('name', [name for name in NAMES if re.match('.*_gpvit_.*_ade20k', name)])
def test_batch_norms_that_the_authors_convert(name: str) -> None:
    assert task_model(shipped(name)).backbone.norm_cfg.type == 'SyncBN'


@pytest.mark.parametrize(
    'name', [name for name in NAMES if re.match('cascade_mask_rcnn_(swin|cswin)_', name)]
)
def test_proposals_of_cascades_are_mmdets(name: str) -> None:
    theirs = Config.fromfile(
        Path(mmdet.__file__).parent / '.mim/configs/_base_/models/cascade-mask-rcnn_r50_fpn.py'
    ).model
    ours = shipped(name).model
    assert ours.rpn_head.loss_bbox == theirs.rpn_head.loss_bbox
    assert ours.train_cfg.rpn == theirs.train_cfg.rpn
    assert ours.train_cfg.rpn_proposal == theirs.train_cfg.rpn_proposal


def layer_of(name: str) -> int | None:
    """Number of a backbone's layer in :attr:`Recipe.layer_decay`; None is not decayed.

    ResTv2: the stem, four stages. ResFormer: the embeddings, twelve blocks.
    """
    if name.startswith(('backbone.stages.0.embed.', 'backbone.embed.')):
        return 0
    if match := re.match(r'backbone\.(?:stages|blocks)\.(\d+)\.', name):
        return int(match[1]) + 1
    return None


def first_of_each_recipe() -> set[str]:
    """A config for each recipe; the others differ in the variant, whose parameters are alike."""
    first: dict[str, str] = {}
    for name in CONFIGS:
        for pattern in RECIPES:
            if re.fullmatch(pattern, name):
                first.setdefault(pattern, name)
    return {*first.values()}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[] if name in first_of_each_recipe() else pytest.mark.slow)
        for name in CONFIGS
        if '_mr_' not in name
    ],
)
def test_optimizer(name: str) -> None:
    """The rate and the decay of every single parameter."""
    cfg, recipe = shipped(name), recipe_of(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), on_meta():
        model = MODELS.build(cfg.model)
        # mixed precision needs a GPU, and changes no rate
        wrapper = {**cfg.optim_wrapper, 'type': 'OptimWrapper'}
        optimizer = build_optim_wrapper(model, wrapper).optimizer
    assert type(optimizer).__name__ == 'AdamW'
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    norms = _parameters_of_norms(model)
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group, factor = groups[id(parameter)], 1.0
        if recipe.layer_decay and (layer := layer_of(key)) is not None:
            factor = recipe.layer_decay[layer]
        factor *= next((f for part, f in recipe.lr_factors.items() if part in key), 1.0)
        assert group['lr'] == pytest.approx(recipe.lr * factor), key
        free = (
            (id(parameter) in norms and not recipe.norms_by_name)
            or '.pos.' in key
            or 'cls_token' in key
            or '.positions.' in key
        )
        free = free or (parameter.ndim == 1 and not recipe.one_dimensional_decay)
        free = free or any(part in key for part in recipe.undecayed)
        free = free and not recipe.norm_decay
        if not recipe.lr_factors:  # a key of its own goes before the rule for norms
            assert group['weight_decay'] == (0 if free else recipe.weight_decay), key


def _parameters_of_norms(model: nn.Module) -> set[int]:
    kinds = nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm
    return {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}


def test_every_recipe_is_used() -> None:
    names = [name.replace('_mr_', '_') for name in CONFIGS]
    unused: list[Any] = [
        pattern for pattern in RECIPES if not any(re.fullmatch(pattern, name) for name in names)
    ]
    assert unused == []
