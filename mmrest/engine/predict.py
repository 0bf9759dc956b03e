"""Drawing a model's predictions into pictures, for detectors and segmentors alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import mmcv
import torch
from mmengine.config import Config

from mmrest.checkpoints import require_fit, use_safe_reader
from mmrest.errors import InputError

# What OpenMMLab's visualizers' colour pictures can be written as.
_WRITABLE = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def plan_pictures(images: Iterable[str], out_dir: str, replace: bool = False) -> dict[Path, Path]:
    """Where each image's picture goes; images of the same name get different pictures.

    Args:
        images: Image files, and folders whose image files are meant.
        out_dir: Folder of the pictures.
        replace: Pictures may replace files that are not among the images.

    Returns:
        Image -> picture.

    Raises:
        InputError: An image is missing or no image, or a picture would overwrite a file.
    """
    files: list[Path] = []
    for name in images:
        path = Path(name).expanduser()
        if not path.exists():
            raise InputError(f'image {name} does not exist (looked in {path.absolute()})')
        found = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
        readable = [file for file in found if cv2.haveImageReader(str(file))]
        if not readable:
            raise InputError(f'{name} is no image that OpenCV reads, nor a folder with one')
        files += readable
    plan: dict[Path, Path] = {}
    for file in dict.fromkeys(files):
        suffix = file.suffix if file.suffix.lower() in _WRITABLE else '.png'
        picture = Path(out_dir, f'{file.stem}{suffix}')
        number = 2
        while picture in plan.values():
            picture = Path(out_dir, f'{file.stem}-{number}{suffix}')
            number += 1
        plan[file] = picture
    sources = {file.resolve() for file in plan}
    for picture in plan.values():
        if picture.resolve() in sources:
            raise InputError(f'--out-dir {out_dir} would overwrite the image {picture}')
        if picture.exists() and not replace:
            raise InputError(f'{picture} exists; --force replaces it')
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'--out-dir {out_dir} cannot be used: {error}') from error
    return plan


def predict(
    cfg: Config,
    checkpoint: str,
    plan: dict[Path, Path],
    device: str | None = None,
    score_threshold: float = 0.3,
) -> Iterator[Path | InputError]:
    """Predict and draw one image after the other.

    Args:
        cfg: Of mmdet or mmseg.
        checkpoint: Of the config's whole model.
        plan: Image -> picture, from :func:`plan_pictures`.
        device: As ``torch.device``; by default a GPU if there is one.
        score_threshold: Detections below it are not drawn.

    Yields:
        The path of each picture when it is written, or what was wrong with its image.

    Raises:
        CheckpointError: The checkpoint does not fit.
        InputError: There is no such device.
    """
    use_safe_reader()
    if device:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f'--device {device} is not there: {error}') from error
    inferencer, options = _build_inferencer(cfg, checkpoint, device, score_threshold)
    require_fit(inferencer.model, checkpoint)
    for image, picture in plan.items():
        if mmcv.imread(str(image)) is None:
            yield InputError(f'{image} cannot be decoded; it may be damaged')
            continue
        try:
            drawn = inferencer(str(image), return_vis=True, **options)['visualization']
        except (cv2.error, IndexError, ValueError) as error:
            # one strange image (a sliver that resizing makes empty) must not cost the others
            yield InputError(f'{image} cannot be predicted or drawn: {error}')
            continue
        drawn = drawn[0] if isinstance(drawn, list) else drawn
        mmcv.imwrite(drawn[..., ::-1], str(picture))
        yield picture


def _build_inferencer(
    cfg: Config, checkpoint: str, device: str | None, score_threshold: float
) -> tuple[Any, dict[str, Any]]:
    """The inferencer of the config's own library, and what to call it with."""
    scope = cfg.get('default_scope')
    arguments = dict(model=cfg, weights=checkpoint, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        if scope == 'mmdet':
            from mmdet.apis import DetInferencer

            inferencer = DetInferencer(**arguments, show_progress=False)
            return inferencer, dict(pred_score_thr=score_threshold)
        if scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            return MMSegInferencer(**arguments), {}
    raise InputError(f"the config's default_scope is {scope!r}; predicting knows mmdet and mmseg")
