"""The built-in data set "shapes": textured pictures of five kinds of shapes, with all labels.

It needs no download, so that the whole way from training to predictions can be tried anywhere. It
lies on disk in COCO's and in ADE20K's layout at once, to be read by mmdet's and mmseg's own data
set classes:

    ROOT/train2017, ROOT/val2017                        COCO's images
    ROOT/annotations/instances_{train,val}2017.json     boxes and instance masks
    ROOT/images/{training,validation}                   the same images in ADE20K's place
    ROOT/annotations/{training,validation}              label maps
    ROOT/shapes.json                                    what the folder was made of

Label maps hold 1 for the background and 2 + i for class i; with ``reduce_zero_label=True``, as for
ADE20K, they become 0 and 1 + i.
"""

from __future__ import annotations

import colorsys
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from mmrest.errors import InputError, did_you_mean
from mmrest.progress import with_time_left

CLASSES = ('disc', 'ring', 'triangle', 'bar', 'star')

# Splits as COCO and as ADE20K name them.
_SPLITS = {'train': ('train2017', 'training'), 'val': ('val2017', 'validation')}
_MANIFEST = 'shapes.json'


@dataclass(frozen=True)
class ShapesSpec:
    """All that determines the pictures; two equal specs give equal pictures.

    Attributes:
        num_train: Images of the training part.
        num_val: Images of the validation part.
        min_side: Shortest side of an image, in pixels.
        max_side: Longest side of an image, in pixels.
        seed: Seed of the random numbers.
        version: Of this generator.
    """

    num_train: int = 800
    num_val: int = 80
    min_side: int = 112
    max_side: int = 176
    seed: int = 0
    version: int = 2

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.num_val < 1 or not 32 <= self.min_side <= self.max_side:
            raise InputError(
                'shapes: num_train and num_val must be at least 1 and '
                f'32 <= min_side <= max_side, got {self}'
            )


@dataclass
class Scene:
    """A picture and its labels.

    Attributes:
        image: (H, W, 3) uint8, BGR as OpenCV has it.
        labels: Class index of each instance, from back to front.
        masks: Visible part of each instance, (H, W) bool.
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]

    def label_map(self) -> np.ndarray:
        """(H, W) uint8: 1 for the background, 2 + i for class i."""
        label_map = np.ones(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            label_map[mask] = label + 2
        return label_map


def make_scene(rng: np.random.Generator, spec: ShapesSpec) -> Scene:
    """Draw a picture with up to six shapes, the later ones in front of the earlier ones.

    Args:
        rng: Source of all that is random.
        spec: Gives the range of the sides.
    """
    height, width = (int(side) for side in rng.integers(spec.min_side, spec.max_side + 1, 2))
    background = rng.uniform(0, 255, 3)
    image = _texture(rng, height, width, background, contrast=rng.uniform(10, 35))
    labels: list[int] = []
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, 7))):
        label = int(rng.integers(len(CLASSES)))
        # Log-uniform: as many small shapes as large ones, from a quarter of a side to most of it.
        radius = min(height, width) / 2 * math.exp(rng.uniform(math.log(0.25), math.log(0.85)))
        center = rng.uniform(radius * 0.7, np.array([width, height]) - radius * 0.7)
        outlines = _outlines(CLASSES[label], radius, rng.uniform(-0.35, 0.35))
        mask = np.zeros((height, width), np.uint8)
        # OpenCV takes corners in sixteenths of a pixel
        corners = [np.round((outline + center) * 16).astype(np.int32) for outline in outlines]
        cv2.fillPoly(mask, corners, 1, shift=4)
        mask = mask.astype(bool)
        remaining = [old & ~mask for old in masks]
        # Too little of an earlier shape would be left to tell what it is.
        hides = any(left.sum() < 0.5 * area for left, area in zip(remaining, areas, strict=True))
        if hides or mask.sum() < 30:
            continue
        color = _color_of(rng, label, image[mask].mean(axis=0))
        texture = _texture(rng, height, width, color, contrast=rng.uniform(5, 25))
        image[mask] = texture[mask]
        masks = [*remaining, mask]
        labels.append(label)
        areas.append(int(mask.sum()))
    image = image + rng.normal(0, rng.uniform(1, 6), image.shape)
    return Scene(image.clip(0, 255).astype(np.uint8), labels, masks)


def _require_known(spec: Mapping[str, Any]) -> None:
    known = [entry.name for entry in fields(ShapesSpec)]
    for name, value in spec.items():
        if name not in known:
            raise InputError(f'shapes: there is no option {name!r}{did_you_mean(name, known)}')
        if not isinstance(value, int):
            raise InputError(f'shapes: {name}={value!r} must be a whole number')


def write_shapes(root: str | os.PathLike, **spec: int) -> Path:
    """Make the data set in ``root``, unless it is there already.

    It is made in a folder beside ``root`` that is renamed when it is complete; of several
    processes that start together one makes it and the others wait.

    Args:
        root: Folder of the data set.
        **spec: Fields of :class:`ShapesSpec`.

    Returns:
        ``root``.

    Raises:
        InputError: An option is none, or ``root`` holds something else, which is left as it is.
    """
    # a link to a folder is as good as the folder
    root = Path(root).resolve()
    _require_known(spec)
    wanted = {**asdict(ShapesSpec(**spec)), 'classes': list(CLASSES)}
    if _is_complete(root, wanted):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f'.{root.name}.lock')):
        if _is_complete(root, wanted):
            return root
        partial = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
        try:
            _write(partial, ShapesSpec(**spec))
            (partial / _MANIFEST).write_text(json.dumps(wanted, indent=1))
            partial.chmod(0o755)
            partial.rename(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return root


def _is_complete(root: Path, wanted: dict) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not root.is_dir():
        raise InputError(f'the shapes data set cannot be made in {root}, which is a file')
    manifest = root / _MANIFEST
    if not manifest.is_file():
        raise InputError(
            f'the shapes data set cannot be made in {root}, which holds something else; '
            'nothing was changed. Name another folder.'
        )
    try:
        found = json.loads(manifest.read_text())
    except ValueError:
        found = 'unknown settings (shapes.json is damaged)'
    if found != wanted:
        raise InputError(
            f'{root} holds shapes made with {found}, but {wanted} is asked for; nothing was '
            'changed. Ask for the same (built_in_data.num_train=... and its like), remove '
            'the folder, or name another one.'
        )
    return True


def _write(root: Path, spec: ShapesSpec) -> None:
    (root / 'annotations').mkdir()
    for part, (split, (coco, ade)) in enumerate(_SPLITS.items()):
        for folder in (coco, f'images/{ade}', f'annotations/{ade}'):
            (root / folder).mkdir(parents=True)
        images, annotations = [], []
        count = spec.num_train if split == 'train' else spec.num_val
        for number in with_time_left(range(1, count + 1), 'pictures'):
            # Each picture has a seed of its own: it does not depend on how many there are.
            rng = np.random.default_rng([spec.seed, part, number])
            scene = make_scene(rng, spec)
            name = f'{number:012d}'
            _imwrite(root / coco / f'{name}.jpg', scene.image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            _link(root / coco / f'{name}.jpg', root / 'images' / ade / f'{name}.jpg')
            _imwrite(root / 'annotations' / ade / f'{name}.png', scene.label_map())
            height, width = scene.image.shape[:2]
            images.append(dict(id=number, file_name=f'{name}.jpg', height=height, width=width))
            for label, mask in zip(scene.labels, scene.masks, strict=True):
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=label + 1,
                        iscrowd=0,
                        **_coco_instance(mask),
                    )
                )
        table = dict(
            info=dict(description='mmrest shapes', version=str(spec.version)),
            images=images,
            annotations=annotations,
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        )
        path = root / 'annotations' / f'instances_{coco}.json'
        path.write_text(json.dumps(table))


def _coco_instance(mask: np.ndarray) -> dict:
    """Run lengths (exact, holes included), area and box of a mask."""
    flat = mask.flatten(order='F')
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes.tolist(), flat.size]).tolist()
    counts = [0, *runs] if flat[0] else runs
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(cols[0]), int(rows[0])
    return dict(
        segmentation=dict(size=list(mask.shape), counts=counts),
        area=int(mask.sum()),
        bbox=[left, top, int(cols[-1]) + 1 - left, int(rows[-1]) + 1 - top],
    )


def _outlines(name: str, radius: float, angle: float) -> list[np.ndarray]:
    """Outlines (n, 2) of a shape around the origin, in pixels; a second one is a hole."""
    if name == 'bar':
        corners = np.array([[1, 0.3], [-1, 0.3], [-1, -0.3], [1, -0.3]])
        return [radius * corners @ _rotation(angle).T]
    count = {'disc': 64, 'ring': 64, 'triangle': 3, 'star': 10}[name]
    # the first corner is at the top
    directions = angle + np.arange(count) * 2 * math.pi / count - math.pi / 2
    corners = radius * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    if name == 'star':
        corners[1::2] *= 0.42
    return [corners, 0.5 * corners] if name == 'ring' else [corners]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _texture(
    rng: np.random.Generator, height: int, width: int, color: np.ndarray, contrast: float
) -> np.ndarray:
    """(height, width, 3) float: a colour with stripes and soft blotches of some contrast."""
    y, x = np.mgrid[:height, :width]
    direction, period = rng.uniform(0, math.pi), rng.uniform(5, 40)
    stripes = np.sin((x * math.cos(direction) + y * math.sin(direction)) * 2 * math.pi / period)
    coarse = rng.normal(0, 1, (int(rng.integers(3, 12)), int(rng.integers(3, 12)), 3))
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return color + contrast * (0.6 * stripes[..., None] + 0.6 * blotches)


def _color_of(rng: np.random.Generator, label: int, behind: np.ndarray) -> np.ndarray:
    """A colour (BGR, 0 to 255) that can be told from the one behind it.

    Things of a kind tend to have a colour, as in photographs, but not so much that the colour would
    tell the kind: hues spread by 30 degrees around five that are 72 degrees apart.
    """
    while True:
        hue = (label / len(CLASSES) + rng.normal(0, 30 / 360)) % 1
        rgb = colorsys.hsv_to_rgb(hue, rng.uniform(0.4, 1), rng.uniform(0.4, 1))
        color = 255 * np.array(rgb[::-1])
        if np.abs(color - behind).max() > 70:
            return color


def _imwrite(path: Path, image: np.ndarray, options: list[int] | None = None) -> None:
    if not cv2.imwrite(str(path), image, options or []):
        raise OSError(f'OpenCV could not write {path}')


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
