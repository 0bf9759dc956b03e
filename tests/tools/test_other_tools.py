"""What works with mmdet's and mmseg's models works with ours: docs/other-tools.md."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils import digit_version
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import mmrest
from mmrest.backbones import PyramidBackbone
from tests import forked
from tests.backbones.families import ROWS, build_tiny, randomize
from tests.conftest import ROOT, last_checkpoint
from tests.two_processes import free_port

DETECTOR, SEGMENTOR = 'retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'
WITH_BATCH_NORM = [family for family, row in ROWS.items() if row.batch_norm]


@pytest.fixture(scope='module')
def place(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and checkpoints that the page names, of random weights."""
    folder = tmp_path_factory.mktemp('other')
    shutil.copytree(shapes_root, folder / 'data/shapes')
    for name in (DETECTOR, SEGMENTOR):
        cfg = mmrest.get_config(name)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
        file = folder / f'work_dirs/{name}' / last_checkpoint(cfg)
        file.parent.mkdir(parents=True)
        torch.save({'state_dict': model.state_dict(), 'meta': {}}, file)
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import matplotlib

    matplotlib.use('Agg')
    monkeypatch.chdir(place)
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield place


@pytest.mark.parametrize('number', [0, 1], ids=['mmdet', 'mmseg'])
def test_the_code_of_the_page_runs(number: int, inside: Path) -> None:
    page = (ROOT / 'docs/other-tools.md').read_text()
    exec(re.findall(r'^```python\n(.*?)^```', page, re.S | re.M)[number], {})
    assert list((inside / 'outputs').rglob('*.jpg'))


def test_the_notebook_runs(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((ROOT / 'docs/notebooks/slicing.ipynb').read_text())
    names: dict = {}
    for cell in notebook['cells']:
        assert not cell.get('outputs')  # committed without
        if cell['cell_type'] == 'code':
            exec(''.join(cell['source']), names)
    assert re.search(r'\d+ objects in the whole image, \d+ in its slices', capsys.readouterr().out)
    assert names['image'].shape == (640, 640, 3)


# get_flops gives mmengine two arguments that exclude each other, browse a transposed picture
_old_mmseg = pytest.mark.skipif(
    digit_version(mmseg.__version__) < digit_version('1.3'),
    reason="these scripts of the original mmsegmentation 1.2.2 fail with today's packages",
)


def script_of(package: object, name: str) -> Path:
    return Path(package.__file__).parent / '.mim/tools/analysis_tools' / name


@pytest.mark.parametrize(
    ('package', 'config', 'name', 'arguments', 'shown'),
    [
        (mmdet, DETECTOR, 'get_flops.py', ['--num-images', '1'], 'Flops'),
        pytest.param(
            *(mmseg, SEGMENTOR, 'get_flops.py', ['--shape', '64', '96'], 'Flops'),
            marks=_old_mmseg,
        ),
        (mmdet, DETECTOR, 'browse_dataset.py', ['--not-show', '--output-dir', 'browsed'], ''),
        pytest.param(
            *(mmseg, SEGMENTOR, 'browse_dataset.py', ['--not-show', '--output-dir', 'browsed'], ''),
            marks=_old_mmseg,
        ),
    ],
    ids=['mmdet get_flops', 'mmseg get_flops', 'mmdet browse', 'mmseg browse'],
)
def test_a_script_of_theirs_takes_our_config(
    package: object, config: str, name: str, arguments: list[str], shown: str, place: Path
) -> None:
    command = [str(script_of(package, name)), mmrest.config_path(config), *arguments]
    result = forked.run_script(command, place, {**os.environ, 'PYTHONPATH': str(ROOT)}, 300)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    if name == 'browse_dataset.py':
        assert list((place / 'browsed').rglob('*.jpg'))


@pytest.mark.parametrize('family', WITH_BATCH_NORM)
def test_norms_are_converted_for_several_processes_and_back(
    family: type[PyramidBackbone],
) -> None:
    backbone, images = randomize(build_tiny(family)).eval(), torch.randn(1, 3, 64, 96)
    expected, keys = backbone(images), list(backbone.state_dict())
    converted = convert_sync_batchnorm(backbone)
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    assert list(converted.state_dict()) == keys
    # mmengine's new norms are in training mode
    back = revert_sync_batchnorm(converted).eval()
    for actual, wanted in zip(back(images), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize('family', WITH_BATCH_NORM)
def test_mmcvs_folding_of_batch_norms_changes_no_output(family: type[PyramidBackbone]) -> None:
    backbone, images = randomize(build_tiny(family)).eval().double(), torch.randn(1, 3, 64, 96)
    images = images.double()
    with torch.no_grad():
        expected = backbone(images)
        actual = fuse_conv_bn(backbone)(images)
    for mine, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.fixture(scope='module')
def mesh() -> Iterator[DeviceMesh]:
    """Of one process on a processor; mmengine's own wrapper asks for an accelerator."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://localhost:{free_port()}', rank=0, world_size=1
    )
    yield init_device_mesh('cpu', (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('family', ROWS)
def test_sharded_parameters_compute_and_learn_the_same(
    family: type[PyramidBackbone], mesh: DeviceMesh
) -> None:
    """torch's ``fully_shard``."""
    backbone, images = randomize(build_tiny(family)).eval(), torch.randn(2, 3, 64, 96)
    sharded = fully_shard(copy.deepcopy(backbone), mesh=mesh)
    for model in (backbone, sharded):
        sum(level.square().mean() for level in model(images)).backward()
    for mine, wanted in zip(sharded.parameters(), backbone.parameters(), strict=True):
        if wanted.requires_grad:
            torch.testing.assert_close(mine.grad.full_tensor(), wanted.grad)
