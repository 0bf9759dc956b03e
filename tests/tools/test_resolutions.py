"""tools/test.py over resolutions, and tools/train.py at several."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmrest.tools import sweep
from mmrest.tools.test import parse_args
from tests.conftest import ROOT

DETECTOR = str(ROOT / 'configs/retinanet_rest_lite_shapes.py')
Run = Callable[..., subprocess.CompletedProcess]
SMALL = 'built_in_data.num_train=12', 'built_in_data.num_val=4'


@pytest.mark.slow
def test_a_multi_resolution_training_is_swept_with_its_plain_config(
    run_tool: Run, shapes_root: Path, tmp_path: Path
) -> None:
    trained = run_tool(
        'train.py', 'configs/upernet_rest_lite_mr_shapes.py', '--data-root', shapes_root,
        '--work-dir', tmp_path, '--cfg-options', *SMALL, 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'train_dataloader.batch_size=2', 'model.accumulate=True',
        'default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=2',
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    for name in ('x1.decode.loss_ce', 'x0.71.total', 'x0.57.loss_consistency'):
        assert name in trained.stdout + trained.stderr
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=False)['state_dict']
    assert {key.split('.')[0] for key in state} == {'backbone', 'decode_head', 'auxiliary_head'}
    swept = run_tool(
        'test.py', 'configs/upernet_rest_lite_shapes.py', tmp_path / 'iter_2.pth', '--data-root',
        shapes_root, '--work-dir', tmp_path / 'sweep', '--cfg-options', *SMALL,
        '--resolutions', 51, '--aspect-ratios', '2:1',
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    rows = [line.split()[0] for line in swept.stdout.splitlines()[1:5]]
    assert rows == ['resolution', '80', '51', '160x80']
    assert 'area under mIoU' in swept.stdout
    compared = run_tool(
        'test.py', '--compare', tmp_path / 'sweep/resolutions.csv', '--plot', tmp_path / 'c.png'
    )
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / 'c.png').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--resolutions', 48], 'name a config and a checkpoint'),
        (['C', 'X', '--resolutions', 48, '--tta'], 'goes with none of --out'),
        (['C', 'X', '--resolutions', 48, '--launcher', 'pytorch'], 'leave --launcher out'),
        (['C', 'X', '--resolutions', 0], 'must be 1 pixel or more'),
        (['C', 'X', '--resolutions', 48, '--train-resolution', -5], 'must be 1 pixel or more'),
        (['C', 'X', '--resolutions', 48, '--aspect-ratios', 'wide'], 'is no aspect ratio'),
        (['C', 'X', '--aspect-ratios', '1:2'], 'are of --resolutions'),
        (['--compare', 'none.csv'], 'takes --plot FILE'),
        (['--compare', 'none.csv', '--plot', 'x.png'], 'none.csv cannot be read'),
    ],
)
def test_options_that_do_not_fit_are_named(
    run_tool: Run, arguments: list, message: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / 'model.pth'
    checkpoint.touch()
    config = 'configs/upernet_rest_lite_shapes.py'
    given = [{'C': config, 'X': checkpoint}.get(a, a) for a in arguments]
    result = run_tool('test.py', *given)
    assert result.returncode == 1
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize(
    ('more', 'sides'),
    [
        ([], ['48', '67', '134', '192']),
        (['--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(200,40)'], None),
        (['--resolutions', '50'], ['50']),
    ],
)
def test_a_sweep_has_default_resolutions(
    more: list[str], sides: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = []
    monkeypatch.setattr('sys.argv', ['sweep.py', DETECTOR, 'model.pth', *more])
    monkeypatch.setattr('mmrest.tools.test.main', lambda: swept.append(parse_args().resolutions))
    sweep.main()
    # half, 0.7, 1.4 and 2 times the short side of 96
    assert swept == [[int(side) for side in sides or ('20', '28', '56', '80')]]
