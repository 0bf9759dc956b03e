from __future__ import annotations

import contextlib
import multiprocessing
import runpy
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmrest.datasets import CLASSES, write_shapes
from mmrest.datasets.shapes import ShapesSpec, make_scene
from mmrest.errors import InputError


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_equal_specs_give_equal_files(tmp_path: Path) -> None:
    first = write_shapes(tmp_path / 'a', num_train=3, num_val=2)
    second = write_shapes(tmp_path / 'b', num_train=3, num_val=2)
    other = write_shapes(tmp_path / 'c', num_train=3, num_val=2, seed=1)
    assert contents(first) == contents(second)
    assert contents(first) != contents(other)
    train, val = (
        (first / part / '000000000001.jpg').read_bytes() for part in ('train2017', 'val2017')
    )
    assert train != val


def test_boxes_masks_and_label_maps_agree(shapes_root: Path) -> None:
    coco = COCO(str(shapes_root / 'annotations/instances_train2017.json'))
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image_id in coco.getImgIds():
        info = coco.loadImgs(image_id)[0]
        image = cv2.imread(str(shapes_root / 'train2017' / info['file_name']))
        same = cv2.imread(str(shapes_root / 'images/training' / info['file_name']))
        assert np.array_equal(image, same)
        assert image.shape[:2] == (info['height'], info['width'])
        name = info['file_name'].replace('.jpg', '.png')
        label_map = cv2.imread(str(shapes_root / 'annotations/training' / name), 0)
        painted = np.ones_like(label_map)
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            mask = coco.annToMask(annotation)
            assert annotation['area'] == mask.sum()
            assert annotation['bbox'] == coco_mask.toBbox(coco.annToRLE(annotation)).tolist()
            painted[mask == 1] = annotation['category_id'] + 1
        assert np.array_equal(painted, label_map)


def test_shapes_are_varied() -> None:
    scenes = [make_scene(np.random.default_rng(i), ShapesSpec()) for i in range(60)]
    areas = np.array([mask.sum() for s in scenes for mask in s.masks])
    assert {label for s in scenes for label in s.labels} == set(range(len(CLASSES)))
    assert areas.max() > 20 * areas.min()
    assert np.percentile(areas, 90) > 5 * np.percentile(areas, 10)
    assert len({s.image.shape for s in scenes}) > 50
    covered = [
        (earlier_box & later).any()
        for s in scenes
        for i, earlier in enumerate(s.masks)
        for later in s.masks[i + 1 :]
        for earlier_box in [box_of(earlier)]
    ]
    assert any(covered)
    assert all(s.masks for s in scenes)


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
    return box


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / 'shapes', num_train=1, num_val=1)
    before = contents(root)
    assert write_shapes(root, num_train=1, num_val=1) == root
    (tmp_path / 'link').symlink_to(root)
    assert write_shapes(tmp_path / 'link', num_train=1, num_val=1) == root
    with pytest.raises(InputError, match='which is a file'):
        write_shapes(root / 'shapes.json')
    with pytest.raises(InputError, match='nothing was changed'):
        write_shapes(root, num_train=2, num_val=1)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/file').write_text('mine')
    with pytest.raises(InputError, match='holds something else'):
        write_shapes(tmp_path / 'full')
    assert contents(root) == before
    assert (tmp_path / 'full/file').read_text() == 'mine'


def test_an_interrupted_writer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError('disk full')

    monkeypatch.setattr('mmrest.datasets.shapes._imwrite', fail)
    with pytest.raises(OSError, match='disk full'):
        write_shapes(tmp_path / 'shapes', num_train=1, num_val=1)
    assert [p.name for p in tmp_path.iterdir() if p.name != '.shapes.lock'] == []


def test_several_processes_may_start_together(tmp_path: Path) -> None:
    root = tmp_path / 'shapes'
    arguments = [(root,)] * 4
    with multiprocessing.get_context('fork').Pool(4) as pool:
        assert pool.starmap(_write_few, arguments) == [root] * 4
    assert len(list(root.glob('train2017/*.jpg'))) == 5
    assert not list(tmp_path.glob('.shapes-*'))
    (root / 'shapes.json').write_text('{')
    with pytest.raises(InputError, match='is damaged'):
        write_shapes(root)


def _write_few(root: Path) -> Path:
    return write_shapes(root, num_train=5, num_val=1)


def test_label_maps_leave_zero_for_the_unlabelled(shapes_root: Path) -> None:
    for file in shapes_root.glob('annotations/*/*.png'):
        values = np.unique(cv2.imread(str(file), 0))
        assert values.min() >= 1
        assert values.max() <= 1 + len(CLASSES)


def test_bad_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='num_train'):
        write_shapes(tmp_path / 'shapes', num_train=0)
    assert not (tmp_path / 'shapes').exists()


def test_a_command_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / 'shapes'
    options = ['--num-train', '2', '--num-val', '1', '--min-side', '32', '--max-side', '48']
    monkeypatch.setattr('sys.argv', ['shapes', str(root), *options])
    runpy.run_module('mmrest.datasets', run_name='__main__')
    assert capsys.readouterr().out.strip() == str(root)
    assert len([*(root / 'train2017').glob('*.jpg')]) == 2
    monkeypatch.setattr('sys.argv', ['shapes', str(root), '--num-train', '3'])
    with pytest.raises(SystemExit, match='error: '):
        runpy.run_module('mmrest.datasets', run_name='__main__')


def test_a_file_system_without_hard_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = write_shapes(tmp_path / 'linked', num_train=1, num_val=1)

    def refuse(*_: object) -> None:
        raise PermissionError('Operation not permitted')

    monkeypatch.setattr('os.link', refuse)
    copied = write_shapes(tmp_path / 'copied', num_train=1, num_val=1)
    assert contents(copied) == contents(linked)


def test_a_picture_that_cannot_be_written_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, 'imwrite', lambda *_: False)  # as OpenCV says it
    with pytest.raises(OSError, match=r'OpenCV could not write .*000000000001'):
        write_shapes(tmp_path / 'shapes', num_train=1, num_val=1)
    assert not (tmp_path / 'shapes').exists()


def test_what_another_process_wrote_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def waits_for_another(path: Path) -> Iterator[None]:
        monkeypatch.undo()
        write_shapes(tmp_path / 'shapes', num_train=1, num_val=1)
        written.append((tmp_path / 'shapes/val2017').stat().st_ino)
        yield

    written: list[int] = []
    monkeypatch.setattr('mmrest.datasets.shapes.FileLock', waits_for_another)
    root = write_shapes(tmp_path / 'shapes', num_train=1, num_val=1)
    assert [(root / 'val2017').stat().st_ino] == written


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        (dict(num_trains=4), "no option 'num_trains'; did you mean num_train"),
        (dict(num_train='x'), "num_train='x' must be a whole number"),
        (dict(num_train=2.5), 'num_train=2.5 must be a whole number'),
        (dict(num_val=0), 'must be at least 1'),
    ],
)
def test_options_that_are_none_are_named(option: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        write_shapes(tmp_path / 'shapes', **option)
    assert not list(tmp_path.iterdir())
