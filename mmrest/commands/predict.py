"""Drawing a model's predictions into pictures, for detectors and segmentors alike."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import mmcv
import torch
from mmengine.config import Config
from torch import nn

from mmrest.checkpoints import require_fit, use_safe_reader
from mmrest.commands.config import name_transforms, require_model
from mmrest.commands.data_errors import NO_SIZE, is_of_no_size
from mmrest.commands.features import FeatureRecorder, draw_features
from mmrest.commands.output_files import make_folder
from mmrest.commands.processes import warn
from mmrest.commands.transform_errors import explain_transform
from mmrest.config_nodes import scope_of
from mmrest.engine.config_errors import explain_config_errors
from mmrest.engine.file_plan import IMAGE_SUFFIXES, plan_files
from mmrest.engine.pictures import drawable
from mmrest.errors import InputError, is_out_of_memory
from mmrest.inference import fuse
from mmrest.progress import with_time_left


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
        if path.is_dir():
            readable = sorted(f for f in path.iterdir() if f.is_file() and _looks_like_image(f))
        else:
            # a pipe would be waited for
            readable = [path] if path.is_file() and cv2.haveImageReader(str(path)) else []
        if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
            warn(f'folders within {name} are not looked into')
        if not readable:
            raise InputError(f'{name} is no image that OpenCV reads, nor a folder with one')
        files += readable
    plan = plan_files(files, out_dir, '--out-dir', replace)
    make_folder('--out-dir', out_dir)
    return {Path(image): picture for image, picture in plan.items()}


def _looks_like_image(file: Path) -> bool:
    """True if OpenCV may read it, or if its name says so: then it is damaged, which is told."""
    return cv2.haveImageReader(str(file)) or file.suffix.lower() in IMAGE_SUFFIXES


def predict(
    cfg: Config,
    checkpoint: str,
    plan: dict[Path, Path],
    device: str | None = None,
    score_threshold: float = 0.3,
    fused: bool = True,
    features_at: tuple[float, float] | None = None,
) -> Iterator[Path | InputError]:
    """Predict and draw one image after the other.

    Args:
        cfg: Of mmdet or mmseg.
        checkpoint: Of the config's whole model.
        plan: Image -> picture, from :func:`plan_pictures`.
        device: As ``torch.device``; by default a GPU if there is one.
        score_threshold: Detections below it are not drawn.
        fused: Fuse the model for inference, see :func:`mmrest.inference.fuse`.
        features_at: Also draw what the backbone computes (:mod:`.features`), with the attention of
            the token at this (x, y), each from 0 to 1; into a folder beside each picture.

    Yields:
        The path of each picture when it is written, or what was wrong with its image.

    Raises:
        CheckpointError: The checkpoint does not fit.
        InputError: There is no such device, or the config is none of a whole model.
    """
    use_safe_reader()
    require_model(cfg)
    if device:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f'--device {device} is not there: {error}') from error
    with explain_config_errors():
        inferencer, options = _build_inferencer(cfg, checkpoint, device, score_threshold)
    if fused and features_at is None:
        fuse(inferencer.model, inplace=True)
    with contextlib.ExitStack() as stack:
        recorder = None
        if features_at is not None:
            recorder = FeatureRecorder(inferencer.model, features_at)
            stack.enter_context(recorder)
        yield from _predict(inferencer, plan, options, recorder)


def _predict(
    inferencer: Any,
    plan: dict[Path, Path],
    options: dict[str, Any],
    recorder: FeatureRecorder | None,
) -> Iterator[Path | InputError]:
    for image, picture in with_time_left(plan.items(), 'images'):
        if not image.stat().st_size or mmcv.imread(str(image)) is None:
            yield InputError(f'{image} cannot be decoded; it is empty or damaged')
            continue
        try:
            drawn = inferencer(str(image), return_vis=True, **options)['visualization']
        except (cv2.error, AssertionError, IndexError, ValueError) as error:
            # one strange image (a sliver that resizing makes empty) must not cost the others
            reason = explain_transform(error) or error
            why = NO_SIZE if is_of_no_size(error) else f'cannot be predicted or drawn: {reason}'
            yield InputError(f'{image} {why}')
            continue
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            yield InputError(f'{image} needs more memory than there is: {error}')
            continue
        drawn = drawn[0] if isinstance(drawn, list) else drawn
        mmcv.imwrite(drawn[..., ::-1], str(picture))
        yield picture
        if recorder is not None:
            rgb = mmcv.imread(str(image), channel_order='rgb')
            yield from draw_features(recorder, rgb, features_folder(picture))


def features_folder(picture: Path) -> Path:
    """Where pictures of features go, beside a picture of predictions."""
    return picture.with_name(f'{picture.name}_features')


def _build_inferencer(
    cfg: Config, checkpoint: str, device: str | None, score_threshold: float
) -> tuple[Any, dict[str, Any]]:
    """The inferencer of the config's own library, and what to call it with."""
    scope = scope_of(cfg)
    cfg = copy.deepcopy(cfg)
    name_transforms(cfg)
    arguments = dict(model=cfg, weights=checkpoint, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        if scope == 'mmdet':
            from mmdet.apis import DetInferencer

            inferencer = _strict(DetInferencer, checkpoint)(**arguments, show_progress=False)
            return inferencer, dict(pred_score_thr=score_threshold)
        if scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            inferencer = _strict(MMSegInferencer, checkpoint)(**arguments)
            inferencer.show_progress = False
            return inferencer, {}
    raise InputError(f"the config's library is {scope!r}; predicting knows mmdet and mmseg")


def _strict(inferencer: type, source: str) -> type:
    """The inferencer that refuses a checkpoint of another model, which mmengine's load in part.

    It also draws a label map of one pixel.
    """

    class Strict(inferencer):
        def _load_weights_to_model(self, model: nn.Module, checkpoint: Any, cfg: Any) -> None:
            require_fit(model, checkpoint, source)
            super()._load_weights_to_model(model, checkpoint, cfg)

        def visualize(self, inputs: Any, preds: Any, *args: Any, **kwargs: Any) -> Any:
            return super().visualize(inputs, [drawable(p) for p in preds], *args, **kwargs)

    return Strict


def require_no_features(pictures: Iterable[Path], replace: bool) -> None:
    """Check that no pictures of features would be overwritten.

    Raises:
        InputError: A folder of such pictures is there.
    """
    there = [folder for folder in map(features_folder, pictures) if folder.exists()]
    if there and not replace:
        raise InputError(f'{there[0]} exists; --force replaces pictures in it')
