from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmrest.engine.file_plan import plan_files
from mmrest.errors import InputError


def images(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((4, 5, 3), np.uint8))
    return [str(root / name) for name in names]


def test_sub_folders_are_kept(tmp_path: Path) -> None:
    files = images(tmp_path / 'data', 'a/1.jpg', 'b/1.jpg', 'b/c/1.jpg')
    plan = plan_files(files, tmp_path / 'out', '--show-dir', keep_folders=True)
    written = [picture.relative_to(tmp_path / 'out') for picture in plan.values()]
    assert written == [Path('a/1.jpg'), Path('b/1.jpg'), Path('b/c/1.jpg')]


def test_equal_names_are_numbered(tmp_path: Path) -> None:
    files = images(tmp_path, 'a/1.jpg', 'b/1.jpg', 'a/1.png', 'a/1.gif.png')
    for options in (dict(), dict(suffix='.png')):
        plan = plan_files(files, tmp_path / 'out', '--out', **options)
        assert len(set(plan.values())) == len(files)
    plan = plan_files(files, tmp_path / 'out', '--out', keep_folders=True, suffix='.png')
    assert len(set(plan.values())) == len(files)


@pytest.mark.parametrize('keep_folders', [False, True])
def test_nothing_that_exists_is_overwritten(keep_folders: bool, tmp_path: Path) -> None:
    files = images(tmp_path / 'data', '1.jpg', '2.jpg')
    for out in (tmp_path / 'data', tmp_path / 'data/../data'):
        with pytest.raises(InputError, match='would overwrite the image'):
            plan_files(files, out, '--show-dir', replace=True, keep_folders=keep_folders)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/2.jpg').write_text('mine')
    with pytest.raises(InputError, match=r'2\.jpg exists; name another folder'):
        plan_files(files, tmp_path / 'out', '--show-dir', keep_folders=keep_folders)


def test_a_link_to_the_images_is_the_images(tmp_path: Path) -> None:
    files = images(tmp_path / 'data', '1.jpg')
    (tmp_path / 'link').symlink_to(tmp_path / 'data')
    with pytest.raises(InputError, match='would overwrite the image'):
        plan_files(files, tmp_path / 'link', '--show-dir', replace=True)
