"""PVT and PVT v2 against mmdet's classes, which are the authors' but for the norms' eps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmdet.models.backbones.pvt import pvt_convert
from torch import Tensor, nn

from mmrest import PVT, PVTV2, CSWin
from mmrest.backbones.pvt import resize_table
from mmrest.backbones.pvt_v2 import LinearSpatialReductionAttention
from mmrest.checkpoints import load_pretrained
from mmrest.errors import InputError
from tests.backbones.families import build

DIMS = (8, 16, 24, 32)
HEADS = (1, 2, 3, 4)
ARCH = dict(embed_dims=DIMS, depths=(1, 2, 1, 1), num_heads=HEADS, mlp_ratios=(4, 4, 2, 2))
CLASSES = {PVT: PyramidVisionTransformer, PVTV2: PyramidVisionTransformerV2}
families = pytest.mark.parametrize('family', CLASSES, ids=lambda family: family.__name__)


def authors_state(family: type, classes: int = 10) -> dict[str, Tensor]:
    """A file in the authors' layout, of random numbers."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, shape[:1]

    before = 3
    for i, (dim, depth, ratio) in enumerate(
        zip(DIMS, ARCH['depths'], ARCH['mlp_ratios'], strict=True)
    ):
        stage, hidden = i + 1, ratio * dim
        plain, overlapping = (2, 3) if i else (4, 7)
        kernel = plain if family is PVT else overlapping
        layer(f'patch_embed{stage}.proj', dim, before, kernel, kernel)
        layer(f'patch_embed{stage}.norm', dim)
        if family is PVT:
            shapes[f'pos_embed{stage}'] = (1, (56 // 2**i) ** 2 + (i == 3), dim)
        else:
            layer(f'norm{stage}', dim)
        for j in range(depth):
            block, ratio = f'block{stage}.{j}', 8 // 2**i
            layer(f'{block}.norm1', dim)
            layer(f'{block}.attn.q', dim, dim)
            layer(f'{block}.attn.kv', 2 * dim, dim)
            layer(f'{block}.attn.proj', dim, dim)
            if ratio > 1:
                layer(f'{block}.attn.sr', dim, dim, ratio, ratio)
                layer(f'{block}.attn.norm', dim)
            layer(f'{block}.norm2', dim)
            layer(f'{block}.mlp.fc1', hidden, dim)
            if family is PVTV2:
                layer(f'{block}.mlp.dwconv.dwconv', hidden, 1, 3, 3)
            layer(f'{block}.mlp.fc2', dim, hidden)
        before = dim
    if family is PVT:
        layer('norm', dim)
        shapes['cls_token'] = (1, 1, dim)
    layer('head', classes, dim)
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=generator, dtype=torch.float64)
        * (0.5 if len(shape) == 1 else (shape[0] / max(1, torch.Size(shape).numel())) ** 0.5)
        for key, shape in shapes.items()
    }


def mmdets(family: type, state: dict[str, Tensor]) -> nn.Module:
    """mmdet's model of that file, with the authors' eps where it has another."""
    model = CLASSES[family](
        embed_dims=DIMS[0],
        num_layers=ARCH['depths'],
        num_heads=HEADS,
        mlp_ratios=ARCH['mlp_ratios'],
    ).double()
    model.load_state_dict(pvt_convert(dict(state)))
    for name, module in model.named_modules():
        if name.endswith(('.0.norm', '.attn.norm')):
            module.eps = 1e-5
    return model.eval()


def ours(family: type, state: dict[str, Tensor], folder: Path, **options: Any) -> nn.Module:
    file = folder / 'file.pth'
    torch.save(dict(model=state), file)
    model = family(ARCH, **options).double().eval()
    load_pretrained(model, str(file))
    return model


@families
@pytest.mark.parametrize('layout', ['authors', 'mmdet'])
def test_computes_what_mmdets_class_computes(family: type, layout: str, tmp_path: Path) -> None:
    state = authors_state(family)
    expected = mmdets(family, state)
    given = state if layout == 'authors' else expected.state_dict()
    floor = ours(family, given, tmp_path, sizes='floor')
    ceil = ours(family, given, tmp_path)
    for size in ((64, 96), (75, 101), (33, 250), (224, 224)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            maps = expected(images)
            for model in (floor, ceil) if size in ((64, 96), (224, 224)) else (floor,):
                for actual, level in zip(model(images), maps, strict=True):
                    torch.testing.assert_close(actual, level, rtol=1e-12, atol=1e-12)


@families
def test_the_authors_eps_matter(family: type, tmp_path: Path) -> None:
    """With mmdet's own eps the two differ, so that the test above would notice."""
    state = authors_state(family)
    theirs = CLASSES[family](
        embed_dims=8, num_layers=ARCH['depths'], num_heads=HEADS, mlp_ratios=ARCH['mlp_ratios']
    ).double()
    theirs.load_state_dict(pvt_convert(dict(state)))
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        pairs = zip(ours(family, state, tmp_path)(images), theirs.eval()(images), strict=True)
        assert max(float((a - b).abs().max()) for a, b in pairs) > 1e-7


def test_parameters_are_the_papers_of_pvt() -> None:
    """Table 1, millions, with a norm, a class token and a classifier, to the digit given."""
    for arch, millions in dict(tiny=13.2, small=24.5, medium=44.2, large=61.4).items():
        with torch.device('meta'):
            model = PVT(arch)
        classifier = 3 * 512 + 2 * 512 + 513 * 1000
        count = sum(p.numel() for p in model.parameters()) + classifier
        assert round(count / 1e6, 1) == millions


def test_rows_beyond_the_last_patch_count(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 65, 64)
    other = images.clone()
    other[:, :, 64:] = 1
    for sizes, seen in (('ceil', True), ('floor', False)):
        model = PVT(ARCH, sizes=sizes).eval()
        a, b = (model(each)[0] for each in (images, other))
        assert a.shape[2] == (17 if seen else 16)
        assert torch.equal(a, b) != seen


def test_what_floors_to_nothing_is_named() -> None:
    for family, size in ((PVT, 31), (PVTV2, 28)):
        model = family(ARCH, sizes='floor').eval()
        with pytest.raises(InputError, match="take sizes='ceil'"):
            model(torch.zeros(1, 3, size, 64))
        with pytest.raises(InputError, match="sizes='round' must be 'ceil' or 'floor'"):
            family(ARCH, sizes='round')


@pytest.mark.parametrize('family', [PVT, PVTV2, CSWin], ids=lambda family: family.__name__)
def test_no_images_and_padded_ones_have_maps_of_the_same_sizes(family: type) -> None:
    model = build(family, sizes='floor').eval()
    expected = [tuple(level.shape[1:]) for level in model(torch.zeros(1, 3, 65, 77))]
    assert [tuple(level.shape[1:]) for level in model(torch.zeros(0, 3, 65, 77))] == expected
    with model.valid_sizes([(65, 77)]):
        assert [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 65, 77))] == expected


def test_the_authors_file_of_the_linear_model(tmp_path: Path) -> None:
    """Its reduction has the name that the others' have."""
    state = authors_state(PVTV2)
    for stage, dim in enumerate(DIMS, 1):
        for block in range(2 if stage == 2 else 1):
            attn = f'block{stage}.{block}.attn'
            state[f'{attn}.sr.weight'] = torch.rand(dim, dim, 1, 1)
            state[f'{attn}.sr.bias'] = state[f'{attn}.norm.bias'] = torch.rand(dim)
            state[f'{attn}.norm.weight'] = torch.rand(dim)
    file = tmp_path / 'b2_li.pth'
    torch.save(state, file)
    model = PVTV2({**ARCH, 'linear': True})
    load_pretrained(model, str(file))
    assert torch.equal(model.stages[3].blocks[0].attn.sr.weight, state['block4.0.attn.sr.weight'])


def test_tables_of_any_size_are_resized_once() -> None:
    table = torch.rand(1, 49, 8)
    own = torch.Size((1, 16, 8))
    expected = resize_table(table, own)
    assert expected.shape == own
    with_token = torch.cat([torch.rand(1, 1, 8), table], dim=1)
    assert torch.equal(resize_table(with_token, own), expected)
    # a single cell is no class token
    assert torch.equal(resize_table(table[:, :1], own), table[:, :1].expand(-1, 16, -1))
    assert resize_table(table[:, :7], own).shape == (1, 7, 8)


def test_linear_attention_is_of_a_pooled_map() -> None:
    """PVT v2, Section 3.1: pooled to 7x7, a 1x1 convolution, a norm and a GELU."""
    model = PVTV2(dict(embed_dims=(16,), depths=(1,), num_heads=(2,), sr_ratios=(1,),
                       mlp_ratios=(2,), linear=True), out_indices=(0,))  # fmt: skip
    attn = model.stages[0].blocks[0].attn
    assert isinstance(attn, LinearSpatialReductionAttention)
    for size in ((14, 21), (3, 5)):
        x = torch.randn(2, *size, 16)
        pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 7)
        tokens = F.conv2d(pooled, attn.sr.weight, attn.sr.bias).flatten(2).mT
        k, v = attn.kv(F.gelu(F.layer_norm(tokens, (16,), attn.sr_norm.weight, attn.sr_norm.bias,
                                           1e-5))).chunk(2, dim=2)  # fmt: skip
        q, k, v = (t.view(2, -1, 2, 8).transpose(1, 2) for t in (attn.q(x).flatten(1, 2), k, v))
        expected = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, *size, 16)
        torch.testing.assert_close(attn(x), attn.proj(expected), rtol=1e-4, atol=1e-5)


def test_the_linear_model_has_one_more_relu() -> None:
    """The authors' code has it in front of the convolution of the MLPs."""
    acts = [type(PVTV2(arch).stages[0].blocks[0].mlp.act1) for arch in ('b2', 'b2_linear')]
    assert acts == [nn.Identity, nn.ReLU]
