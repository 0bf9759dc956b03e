from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmrest.engine.predict import plan_pictures
from mmrest.errors import InputError


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = [tmp_path / 'a/x.jpg', tmp_path / 'b/x.jpg', tmp_path / 'b/y.png']
    for file in files:
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'b/notes.txt').write_text('text')
    return files


def test_images_of_one_name_get_their_own_pictures(images: list[Path], tmp_path: Path) -> None:
    plan = plan_pictures([str(images[0]), str(images[1].parent), str(images[0])], 'out')
    assert list(plan) == images
    assert [p.name for p in plan.values()] == ['x.jpg', 'x-2.jpg', 'y.png']


def test_bad_images_are_named_before_anything_starts(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'z\.jpg does not exist'):
        plan_pictures([str(images[0]), str(tmp_path / 'z.jpg')], 'out')
    with pytest.raises(InputError, match=r'notes\.txt is no image'):
        plan_pictures([str(tmp_path / 'b/notes.txt')], 'out')


def test_pictures_do_not_overwrite_images(images: list[Path]) -> None:
    with pytest.raises(InputError, match='would overwrite'):
        plan_pictures([str(images[0])], str(images[0].parent))
