"""The recipes of the page about data of one's own, for images that are not RGB."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import forked
from tests.conftest import ROOT
from tests.docs.test_commands_in_docs import blocks

# in a few steps, of small pictures
QUICK = 'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=4'
GREY = [
    ("color_type='unchanged'", "color_type='grayscale'"),
    (', normalize, _base_', ', _base_'),
    ('transforms=[*views[:-1], [normalize], views[-1]]', 'transforms=views'),
    ('in_channels=4', 'in_channels=1'),
    ('mean=None, std=None', 'mean=[120.0], std=[58.0]'),
]


def recipe() -> str:
    (found,) = [
        block for block in blocks(ROOT / 'docs/own-data.md', 'python') if 'in_channels=4' in block
    ]
    return found


def grey_recipe() -> str:
    """As the page says in words."""
    text = recipe()
    for old, new in GREY:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def four(shapes_root: Path, tmp_path: Path) -> Path:
    """The built-in data set with a fourth channel, in a folder to run in."""
    shapes = tmp_path / 'data/shapes'
    shutil.copytree(shapes_root, shapes)
    record = shapes / 'shapes.json'  # as if it were the whole data set
    record.write_text(json.dumps(json.loads(record.read_text()) | dict(num_train=800, num_val=80)))
    for file in shapes.rglob('*2017/*.jpg'):
        image = cv2.imread(str(file))
        cv2.imwrite(str(file.with_suffix('.png')), np.dstack([image, image[..., :1]]))
        file.unlink()
    for file in (shapes / 'annotations').glob('*.json'):
        file.write_text(file.read_text().replace('.jpg"', '.png"'))
    return tmp_path


def run(words: list[str], place: Path) -> tuple[int, str]:
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    script = [str(ROOT / 'mmrest/__main__.py'), *words]
    result = forked.run_script(script, place, environment, 600)
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize('text', [recipe(), grey_recipe()], ids=['four', 'grey'])
def test_images_that_are_not_rgb_are_trained_on_and_tested(text: str, four: Path) -> None:
    (four / 'own.py').write_text(text)
    status, said = run(['train', 'own.py', '--cfg-options', *QUICK], four)
    assert status == 0, said
    few = ['--cfg-options', 'test_dataloader.dataset.indices=2']
    status, said = run(['test', 'own.py', 'work_dirs/own/epoch_1.pth', '--tta', *few], four)
    assert status == 0, said
    assert 'and tta_pipeline with' not in said


def without(pattern: str) -> str:
    text, count = re.subn(pattern, '', recipe())
    assert count == 1
    return text


@pytest.mark.parametrize(
    ('text', 'command', 'said'),
    [
        (
            without(r'(?s)views = .*?\n\]\n'),
            ['test', 'own.py', 'none.pth', '--tta'],
            'warning: the test pipeline begins with {.*unchanged.*}, and tta_pipeline with',
        ),
        (
            without(r'    data_preprocessor=.*\n'),
            ['train', 'own.py', '--cfg-options', *QUICK],
            r'images of 4 channels \(in_channels=4\), and model.data_preprocessor has 3 means and '
            'bgr_to_rgb .* which gives three channels: set its bgr_to_rgb=False, mean=None',
        ),
    ],
    ids=['tta_pipeline', 'data_preprocessor'],
)
def test_a_part_of_the_recipe_that_is_left_out_is_named(
    text: str, command: list[str], said: str, four: Path
) -> None:
    (four / 'own.py').write_text(text)
    status, output = run(command, four)
    assert status == 1
    assert re.search(said, output), output
    assert 'Traceback' not in output
