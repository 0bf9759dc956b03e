"""The contract, for every backbone; see ``families.py``."""

from __future__ import annotations

import inspect
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, init_default_scope

import mmrest
from mmrest.backbones import BACKBONES, PyramidBackbone
from mmrest.checkpoints import CheckpointError
from mmrest.errors import InputError
from tests.backbones.families import ROWS, build, families, forms, num_stages, randomize, subsets

SIZES = [(1, 1), (1, 7), (17, 1), (31, 33), (32, 32), (45, 130), (64, 96)]


def test_every_family_is_tested() -> None:
    assert set(BACKBONES.values()) == set(ROWS)
    for family, row in ROWS.items():
        assert not row.parameters or row.parameters.keys() == family.variants.keys()


@families
def test_what_somebody_derives_is_no_family_of_its_own(family: type[PyramidBackbone]) -> None:
    derived = type('Derived', (family,), {})
    assert family in BACKBONES.values()
    assert derived not in BACKBONES.values()


@families
def test_a_family_is_an_attribute_of_the_package(family: type[PyramidBackbone]) -> None:
    """``type='mmrest.X'`` in a config is imported by this name."""
    assert getattr(mmrest, family.__name__) is family


@pytest.mark.parametrize('size', SIZES, ids=str)
@forms
def test_maps_have_the_promised_sizes(family: type[PyramidBackbone], size: tuple[int, int]) -> None:
    model = build(family).eval()
    maps = model(torch.randn(2, 3, *size))
    assert isinstance(maps, tuple)
    assert len(maps) == len(model.out_channels) == len(model.out_strides)
    for level, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        assert level.shape == (2, channels, *(math.ceil(side / stride) for side in size))
        assert level.isfinite().all()
        assert level.is_contiguous()


@pytest.mark.parametrize('size', [(1, 1), (33, 70)], ids=str)
@forms
def test_training_step_at_odd_sizes(family: type[PyramidBackbone], size: tuple[int, int]) -> None:
    model = build(family, drop_path_rate=0.3).train()
    sum(level.square().sum() for level in model(torch.randn(2, 3, *size))).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@forms
def test_outputs_do_not_depend_on_the_choice_of_levels(family: type[PyramidBackbone]) -> None:
    full = randomize(build(family)).eval()
    images = torch.randn(1, 3, 50, 70)
    state, expected = full.state_dict(), full(images)
    # every single level, all but one, and two beside each other
    choices = [c for c in subsets(num_stages(family)) if len(c) in (1, 3) or c == (1, 2)]
    for out_indices in choices:
        model = build(family, out_indices=out_indices).eval()
        model.load_state_dict({k: state[k] for k in model.state_dict()})
        maps = model(images)
        assert model.out_channels == tuple(full.out_channels[i] for i in out_indices)
        for level, i in zip(maps, out_indices, strict=True):
            torch.testing.assert_close(level, expected[i])


def check_gradients(
    family: type[PyramidBackbone], out_indices: tuple[int, ...], frozen: int
) -> None:
    model = build(family, out_indices=out_indices, frozen_stages=frozen).train()
    assert model.frozen_stages == frozen
    maps = model(torch.randn(2, 3, 33, 33))
    if any(level.requires_grad for level in maps):
        sum(level.square().sum() for level in maps).backward()
    for name, parameter in model.named_parameters():
        case = (out_indices, frozen, name)
        assert (parameter.grad is not None) == parameter.requires_grad, case


@forms
def test_trainable_parameters_get_gradients(family: type[PyramidBackbone]) -> None:
    last = num_stages(family) - 1
    everything = tuple(range(last + 1))
    for out_indices, frozen in (
        *((everything, -1), (everything, 1), ((last,), 0), ((0,), -1), ((1, last), last + 1)),
    ):
        check_gradients(family, out_indices, frozen)


@pytest.mark.slow
@forms
def test_every_trainable_parameter_gets_a_gradient(family: type[PyramidBackbone]) -> None:
    stages = num_stages(family)
    for out_indices, frozen in itertools.product(subsets(stages), range(-1, stages + 1)):
        check_gradients(family, out_indices, frozen)


@forms
def test_frozen_stages_stay_frozen_in_training(family: type[PyramidBackbone]) -> None:
    model = build(family, frozen_stages=2)
    assert model.train() is model
    assert model.training
    modules = [m for stage in range(3) for m in model.stage_modules(stage)]
    assert modules
    frozen = {id(m) for module in modules for m in module.modules()}
    assert all(not m.training for m in model.modules() if id(m) in frozen)
    before = {k: v.clone() for module in modules for k, v in module.state_dict().items()}
    model(torch.randn(2, 3, 64, 64))
    after = {k: v for module in modules for k, v in module.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert any(m.training for m in model.stage_modules(3)) or num_stages(family) < 3


@pytest.mark.parametrize(
    'family', [f for f, row in ROWS.items() if row.batch_norm], ids=lambda family: family.__name__
)
def test_norm_eval_keeps_all_batch_statistics(family: type[PyramidBackbone]) -> None:
    model = build(family, norm_eval=True).train()
    before = {k: v.clone() for k, v in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[k], v) for k, v in model.named_buffers())


@forms
def test_checkpointing_keeps_less_and_changes_nothing(family: type[PyramidBackbone]) -> None:
    images = torch.randn(2, 3, 64, 96)
    results, kept = [], []
    reference = randomize(build(family, drop_path_rate=0.5))
    for with_cp in (False, True):
        model = build(family, drop_path_rate=0.5, with_cp=with_cp).train()
        model.load_state_dict(reference.state_dict())
        torch.manual_seed(1)
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = model(images)
        kept.append(sum(sizes.values()))
        sum(level.square().sum() for level in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)
    assert kept[1] < 0.8 * kept[0]  # the stems keep theirs


@forms
def test_images_of_a_batch_do_not_meet(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).double().eval()
    images = torch.randn(3, 3, 40, 72, dtype=torch.float64)
    together = model(images)
    alone = [model(image[None]) for image in images]
    for level, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(level, torch.cat(parts), rtol=1e-4, atol=1e-4)


@forms
def test_neighbours_and_padding_do_not_matter_when_the_valid_sizes_are_known(
    family: type[PyramidBackbone],
) -> None:
    model = randomize(build(family)).double().eval()
    sizes = [(40, 72), (64, 33), (40, 72), (64, 96)]
    images = torch.full((4, 3, 64, 96), 7.0, dtype=torch.float64)
    alone = []
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
        alone.append(model(image[None, :, :height, :width]))
    padded = model(images)
    with model.valid_sizes(sizes):
        together = model(images)
    assert [level.shape for level in together] == [level.shape for level in padded]
    for level, stride, *parts in zip(together, model.out_strides, *alone, strict=True):
        for image, part, (height, width) in zip(level, parts, sizes, strict=True):
            rows, columns = math.ceil(height / stride), math.ceil(width / stride)
            torch.testing.assert_close(image[:, :rows, :columns], part[0], rtol=1e-4, atol=1e-4)
            assert not image[:, rows:].any()
            assert not image[:, :, columns:].any()
    assert not torch.allclose(padded[-1], together[-1], atol=1e-2), 'padding has an influence'


@forms
def test_valid_sizes_are_forgotten_and_checked(family: type[PyramidBackbone]) -> None:
    model = build(family).train()
    images = torch.randn(2, 3, 40, 40)
    with model.valid_sizes([(40, 33), (17, 40)]):
        sum(level.square().sum() for level in model(images)).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        with model.valid_sizes(None):
            assert model(images)[0][1, :, -1].any()
    assert model(images)[0][1, :, -1].any()
    for sizes in ([(40, 40)], [(41, 40), (40, 40)], [(40, 40), (0, 40)]):
        with pytest.raises(ValueError, match='valid sizes'), model.valid_sizes(sizes):
            model(images)


@forms
def test_layout_of_the_images_does_not_matter(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).eval()
    images = torch.randn(2, 3, 80, 72)
    expected = model(images[:, :, ::2])
    for same in (
        images[:, :, ::2].contiguous(),
        images[:, :, ::2].contiguous(memory_format=torch.channels_last),
    ):
        for level, other in zip(expected, model(same), strict=True):
            torch.testing.assert_close(level, other, rtol=1e-4, atol=1e-4)


@forms
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_autocast_and_double(
    family: type[PyramidBackbone], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    model = build(family).eval()
    if dtype == torch.bfloat16:  # drawn statistics of BatchNorm are beyond float16
        model = randomize(model)
    images = torch.randn(1, 3, 64, 64)
    exact = model.double()(images.double())
    model.float()
    with torch.autocast('cpu', dtype):
        maps = model(images)
    for level, other in zip(maps, exact, strict=True):
        assert level.isfinite().all()
        assert (level.double() - other).abs().max() < tolerance * other.abs().max()


@forms
def test_layer_depth_grows_along_the_network(family: type[PyramidBackbone]) -> None:
    model = build(family)
    depths = []
    for name, _ in model.named_parameters():
        layer, count = model.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert (layer, count) == model.get_layer_depth(name)
        assert 0 <= layer < count
        depths.append(layer)
    assert depths == sorted(depths)
    assert depths[0] == 0
    first = {id(p) for m in model.stage_modules(0) for p in m.parameters()}
    for (_, parameter), depth in zip(model.named_parameters(), depths, strict=True):
        assert (depth == 0) == (id(parameter) in first)


@families
def test_registered_in_every_scope(family: type[PyramidBackbone]) -> None:
    from mmdet.registry import MODELS as MMDET_MODELS
    from mmseg.registry import MODELS as MMSEG_MODELS

    cfg = dict(type=family.__name__, arch=ROWS[family].arch)
    for registry in (MODELS, MMDET_MODELS, MMSEG_MODELS):
        assert type(registry.build(cfg)) is family
        assert type(registry.build({**cfg, 'type': f'mmrest.{family.__name__}'})) is family
    for scope in ('mmdet', 'mmseg'):
        with DefaultScope.overwrite_default_scope(scope):
            init_default_scope(scope)
            assert type(MODELS.build(cfg)) is family


PUBLISHED = [(family, name) for family, row in ROWS.items() for name in row.parameters]


@pytest.mark.parametrize(
    ('family', 'name'), PUBLISHED, ids=[f'{f.__name__}-{n}' for f, n in PUBLISHED]
)
def test_published_variants_have_the_published_size(
    family: type[PyramidBackbone], name: str
) -> None:
    with torch.device('meta'):
        model = family(arch=name, out_norm='none')
    trunk = sum(p.numel() for p in model.parameters())
    width = model.out_channels[-1]
    norm_and_head = 2 * width + 1000 * width + 1000
    # the papers round sometimes up, sometimes to the nearest
    assert abs((trunk + norm_and_head) / 1e6 - ROWS[family].parameters[name]) < 0.01


@families
def test_other_channels_and_stages(family: type[PyramidBackbone]) -> None:
    assert len(build(family, in_channels=5)(torch.randn(2, 5, 33, 33))) == num_stages(family)
    arch = {k: v[:2] if isinstance(v, tuple) else v for k, v in ROWS[family].arch.items()}
    model = family(arch=arch, out_indices=(0, 1))
    assert len(model(torch.randn(2, 3, 33, 33))) == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), "unknown arch 'huge'"),
        (dict(arch=dict(embed_dims=(8, 16))), 'missing'),
        (dict(arch=3), 'must be a name, a dict or a'),
        (dict(out_indices=()), 'out_indices'),
        (dict(out_indices=2), 'out_indices'),
        (dict(out_indices=(True,)), 'out_indices'),
        (dict(drop_path_rate=1.0), 'drop_path_rate'),
        (dict(init_cfg='x.pth'), 'init_cfg'),
        (dict(init_cfg=dict(checkpoint='x.pth')), 'has no type'),
        (dict(in_channels='3'), 'in_channels'),
        (dict(frozen_stages='1'), 'frozen_stages'),
        (dict(drop_path_rate='0.1'), 'drop_path_rate'),
        (dict(init_cfg=dict(type='Pretrained', chekpoint='x.pth')), 'chekpoint'),
        (dict(out_indices=(1, 0)), 'out_indices'),
        (dict(out_indices=(0, 99)), 'out_indices'),
        (dict(frozen_stages=99), 'frozen_stages'),
    ],
    ids=str,
)
@families
def test_bad_arguments_are_named(
    family: type[PyramidBackbone], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(family, **options)


@families
def test_switches_are_on_or_off(family: type[PyramidBackbone]) -> None:
    switches = [
        name
        for name, argument in inspect.signature(family).parameters.items()
        if isinstance(argument.default, bool)
    ]
    assert 'with_cp' in switches
    for name in switches:
        for good in (True, False, 1, 0):
            build(family, **{name: good})
        # a text would be on, whatever it says
        for bad in ('False', 'no', 'flase', None, 2, [True]):
            with pytest.raises(InputError, match=f'{family.__name__}: {name}=.* True or False'):
                build(family, **{name: bad})


@pytest.mark.parametrize(
    'shape', [(3, 32, 32), (1, 4, 32, 32), (1, 3, 0, 32), (0, 4, 32, 32)], ids=str
)
@families
def test_bad_images_are_named(family: type[PyramidBackbone], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'takes images of shape \(B, 3, H, W\)') as error:
        build(family)(torch.zeros(shape))
    other_channels = len(shape) == 4 and shape[1] != 3
    assert ('give the backbone in_channels=4' in str(error.value)) == other_channels
    with pytest.raises(ValueError, match='got NoneType'):
        build(family)(None)


@families
def test_freezing_random_weights_is_noticed(
    family: type[PyramidBackbone], caplog: pytest.LogCaptureFixture
) -> None:
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        build(family, frozen_stages=1).init_weights()
    finally:
        logger.removeHandler(caplog.handler)
    assert 'freezes random weights' in caplog.text


@forms
@pytest.mark.parametrize('training', [False, True])
def test_a_batch_of_no_images(family: type[PyramidBackbone], training: bool) -> None:
    """As torch's own layers: maps of the right size, gradients of zero, statistics as they were."""
    model = build(family).train(training)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images = torch.rand(0, 3, 37, 51)
    maps = model(images)
    for level, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        assert level.shape == (0, channels, -(-37 // stride), -(-51 // stride))
    sum(level.sum() for level in maps).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
    for name, buffer in model.named_buffers():
        if not name.endswith('num_batches_tracked'):
            torch.testing.assert_close(buffer, before[name])
    with model.valid_sizes([]):
        assert model(images)[0].shape == maps[0].shape


@pytest.mark.parametrize(
    'family',
    [f for f, row in ROWS.items() if row.forward_mode],
    ids=lambda family: family.__name__,
)
def test_derivatives_forward_are_those_backward(family: type[PyramidBackbone]) -> None:
    """torch.func and forward-mode AD see through the backbone."""
    model = randomize(build(family)).eval().double()
    image, tangent = (torch.rand(1, 3, 37, 51, dtype=torch.float64) for _ in range(2))
    weights = [torch.rand_like(level) for level in model(image)]

    def weigh(pixels: torch.Tensor) -> torch.Tensor:
        return sum((w * level).sum() for w, level in zip(weights, model(pixels), strict=True))

    image.requires_grad_()
    (gradient,) = torch.autograd.grad(weigh(image), image)
    image = image.detach()
    assert gradient.abs().max() > 0
    torch.testing.assert_close(torch.func.grad(weigh)(image), gradient)
    forward = torch.func.jvp(weigh, (image,), (tangent,))[1]
    torch.testing.assert_close(forward, (gradient * tangent).sum())


@pytest.mark.parametrize(
    ('family', 'fields'),
    [(family, fields) for family, row in ROWS.items() for fields in row.wrong_fields],
    ids=lambda value: str(getattr(value, '__name__', value)),
)
def test_a_wrong_field_of_arch_is_named(
    family: type[PyramidBackbone], fields: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        family(arch={**ROWS[family].arch, **fields})


@families
@pytest.mark.parametrize('way', ['mean', 'repeat'])
@pytest.mark.parametrize(
    'in_channels',
    [1, 6, *(pytest.param(channels, marks=pytest.mark.slow) for channels in (2, 4))],
)
def test_weights_of_colour_images_for_other_channels(
    family: type[PyramidBackbone], way: str, in_channels: int, tmp_path: Path
) -> None:
    """Of an image whose channels are all the same, the maps are those of the grey image."""
    coloured = randomize(build(family)).eval()
    file = str(tmp_path / 'rgb.pth')
    torch.save(coloured.state_dict(), file)
    init_cfg = dict(type='Pretrained', checkpoint=file, adapt_in_channels=way)
    model = build(family, in_channels=in_channels, init_cfg=init_cfg).eval()
    model.init_weights()
    if way == 'mean' or in_channels % 3 == 0:
        grey = torch.rand(1, 1, 40, 56, dtype=torch.float64)
        model, coloured = model.double(), coloured.double()
        expected = coloured(grey.expand(-1, 3, -1, -1))
        found = model(grey.expand(-1, in_channels, -1, -1))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    first = next(p for p in model.parameters() if p.ndim == 4)
    old = next(p for p in coloured.parameters() if p.ndim == 4)
    if way == 'repeat':
        torch.testing.assert_close(first[:, 0].float(), old[:, 0].float() * 3 / in_channels)


@pytest.mark.parametrize(
    'family',
    # what is wrong is compared with every published variant of all families
    [pytest.param(f, marks=[] if i < 3 else pytest.mark.slow) for i, f in enumerate(ROWS)],
    ids=lambda family: family.__name__,
)
def test_weights_of_colour_images_are_adapted_on_request_alone(
    family: type[PyramidBackbone], tmp_path: Path
) -> None:
    file = str(tmp_path / 'rgb.pth')
    torch.save(build(family).state_dict(), file)
    for options, message in (
        ({}, 'wrong shape'),
        (dict(adapt_in_channels='sum'), "must be 'mean' or 'repeat'"),
    ):
        init_cfg = dict(type='Pretrained', checkpoint=file, **options)
        with pytest.raises(CheckpointError, match=message):
            build(family, in_channels=1, init_cfg=init_cfg).init_weights()


@families
def test_arch_is_a_name_a_dict_or_a_dataclass(family: type[PyramidBackbone]) -> None:
    fields = ROWS[family].arch
    arch = family.Arch(**fields)
    assert family.Arch.resolve(fields, family.variants) == arch
    as_lists = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    assert family.Arch.resolve(as_lists, family.variants) == arch
    states = [family(arch=given).state_dict() for given in (fields, as_lists, arch)]
    assert all(state.keys() == states[0].keys() for state in states)
    with pytest.raises(AttributeError):
        arch.embed_dims = 1
    with pytest.raises(InputError, match=r"unknown: \['widths'\]"):
        family(arch={**fields, 'widths': 1})
    with pytest.raises(InputError, match='must be a name, a dict or a'):
        family(arch=3)


@forms
def test_every_module_is_called(family: type[PyramidBackbone]) -> None:
    """No module is built for nothing, in training and in inference."""
    model = build(family, drop_path_rate=0.3)
    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    called: set[str] = set()
    for name, leaf in leaves.items():
        leaf.register_forward_hook(lambda *_, name=name: called.add(name))
    for training in (True, False):
        called.clear()
        with torch.set_grad_enabled(training):
            model.train(training)(torch.randn(2, 3, 70, 90))
        assert called == leaves.keys()
