"""Export a model: ``mmrest export CONFIG CHECKPOINT OUT.onnx`` (or ``OUT.pt2``).

An ONNX file, or a program of torch.export, of dynamic batch, height and width. Its input is a batch
of images that is normalised as the config's data preprocessor does; outputs are a segmentor's
logits, or the dense head's scores and box deltas of a detector, and with ``--part features`` or
``--part backbone`` maps. The file is run at sizes that were not traced and compared with the model.
"""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmrest.checkpoints import read_checkpoint, require_fit
from mmrest.commands.cli import (
    add_config_arguments,
    add_fuse_argument,
    config_from_arguments,
    parse_shape,
    require_files,
)
from mmrest.commands.config import require_model
from mmrest.commands.output_files import require_new_file
from mmrest.commands.pretraining import forget_weights
from mmrest.config_nodes import scope_of, task_model, type_name
from mmrest.engine.config_errors import explain_config_errors
from mmrest.engine.exporting import PARTS, Exported, exported_part
from mmrest.engine.image_channels import image_channels
from mmrest.errors import ArgumentParser, InputError, clear_errors
from mmrest.inference import fuse

# The older exporter takes what Python computes of sizes for constants.
NOT_BY_TORCHSCRIPT = (
    *('CSWin', 'GPViT', 'GPViTAdapter', 'MViTV2', 'P2T', 'PVT'),
    *('Swin', 'TwinsPCPVT', 'TwinsSVT'),
)
TOLERANCE = 1e-4
OTHER_SIZES = (1, 97, 161), (2, 160, 96), (1, 65, 230)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('config', help='a config of mmdet or mmseg, or the name of one of mmrest')
    parser.add_argument('checkpoint', help='of the whole model')
    parser.add_argument('out', help='FILE.onnx, or FILE.pt2 for a program of torch.export')
    parser.add_argument(
        '--part',
        choices=PARTS,
        default='model',
        help='features: the maps of backbone and neck; backbone: those of the backbone',
    )
    parser.add_argument(
        '--shape', default='256x320', metavar='HxW', help='of the image that is traced'
    )
    parser.add_argument(
        '--torchscript',
        action='store_true',
        help="write ONNX by torch's older exporter, of opset 17; few families can",
    )
    parser.add_argument('--force', action='store_true', help='replace OUT')
    add_fuse_argument(parser)
    add_config_arguments(parser)
    args = parser.parse_args()
    with clear_errors():
        if Path(args.out).suffix not in ('.onnx', '.pt2'):
            raise InputError(f'{args.out} should end with .onnx or .pt2')
        if args.out.endswith('.onnx'):
            require_onnx()
        elif args.torchscript:
            raise InputError(f'--torchscript writes ONNX, and {args.out} is to be a program')
        for file in (args.out, f'{args.out}.data'):  # the second if it has large weights
            require_new_file('OUT', file, args.force, '--force replaces it')
        shape = parse_shape(args.shape)
        cfg = config_from_arguments(args)
        require_model(cfg)
        if args.torchscript:
            require_torchscript(cfg)
        require_files(cfg, args.checkpoint)
        forget_weights(cfg)
        with explain_config_errors(), DefaultScope.overwrite_default_scope(scope_of(cfg)):
            model = MODELS.build(task_model(cfg))
        model.eval()  # whose result mmdet's classes do not all return
        require_fit(model, read_checkpoint(args.checkpoint), args.checkpoint)
        part = exported_part(fuse(model, inplace=True) if args.fuse else model, args.part)
        written, difference = export_checked(part, Path(args.out), shape, args.torchscript)
        print(f'{" and ".join(map(str, written))}: {", ".join(part.output_names)}')
        print(
            f'equal to torch within {difference} at {len(OTHER_SIZES)} sizes that were not traced'
        )


class Difference(NamedTuple):
    """Largest ones, each relative to an output's largest number.

    Attributes:
        from_torch: Of a file's outputs from torch's.
        of_rounding: Of torch's own in float32 from those in float64.
    """

    from_torch: float
    of_rounding: float

    def __str__(self) -> str:
        text = f'{self.from_torch:.1e}'
        if self.from_torch < TOLERANCE:
            return text
        return (
            f'{text} (the model amplifies rounding: torch itself is off by {self.of_rounding:.1e})'
        )


def export_checked(
    part: Exported, path: Path, shape: tuple[int, int], torchscript: bool = False
) -> tuple[list[Path], Difference]:
    """Export beside ``path`` and move there what computes the same; else nothing is replaced.

    Returns:
        The files, and how far they are from torch.

    Raises:
        InputError: torch cannot export it, or the file differs.
    """
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as folder:
        draft = Path(folder, path.name)
        export(part, str(draft), shape, torchscript)
        difference = compare(part, str(draft))
        # weights that an earlier export left would be taken for this one's
        path.with_name(f'{path.name}.data').unlink(missing_ok=True)
        drafts = sorted(draft.parent.iterdir())
        for file in drafts:
            os.replace(file, path.with_name(file.name))
    return [path.with_name(file.name) for file in drafts], difference


def require_onnx() -> None:
    """Check that ONNX files can be written and run.

    Raises:
        InputError: A package is missing; the message names the command that installs it.
    """
    missing = []
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise InputError(f'ONNX needs {" and ".join(missing)}: pip install {" ".join(missing)}')


def require_torchscript(cfg: Config) -> None:
    """Check that a config's backbone is none of those that the older exporter does not take.

    Raises:
        InputError: It is.
    """
    family = (type_name(task_model(cfg).get('backbone')) or '').rpartition('.')[2]
    if family in NOT_BY_TORCHSCRIPT:
        raise InputError(
            f'{family} cannot be exported by --torchscript for all image sizes; without it, it can'
        )


def export(part: Exported, path: str, shape: tuple[int, int], torchscript: bool = False) -> None:
    """Write a part of a model with dynamic batch, height and width.

    Args:
        part: Is put into eval mode.
        path: ``.onnx`` or ``.pt2``.
        shape: (height, width) of the images that are traced.
        torchscript: Write ONNX by torch's older exporter.

    Raises:
        InputError: torch cannot export it.
    """
    part.eval()  # one of the exporters puts its mode back, and that of all in it
    images = torch.randn(2, image_channels(part), *shape)
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    names = dict(input_names=['images'], output_names=list(part.output_names))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if path.endswith('.pt2'):
                program = torch.export.export(
                    part, (images,), dynamic_shapes=(sizes,), strict=False
                )
                torch.export.save(program, path)
            elif torchscript:
                torch.onnx.export(
                    *(part, (images,), path),
                    **names,
                    dynamic_axes=dict(images=axes),
                    dynamo=False,
                    opset_version=17,
                )
            else:
                torch.onnx.export(
                    *(part, (images,), path),
                    **names,
                    dynamic_shapes=(sizes,),
                    dynamo=True,
                    verbose=False,
                )
    except (RuntimeError, ValueError, torch.onnx.OnnxExporterError) as error:
        lines = [line for line in str(error).strip().splitlines() if line]
        raise InputError(f'torch cannot export this model: {lines[-1]}') from error


def compare(part: nn.Module, path: str) -> Difference:
    """How far a file's outputs are from torch's, at other sizes than the traced one.

    Raises:
        InputError: It is more than rounding: than 1e-4, or in a model that amplifies rounding than
            30 times what torch itself is off in float32.
    """
    run, precise = _runner(path), copy.deepcopy(part).double()
    largest = rounding = 0.0
    for batch, height, width in OTHER_SIZES:
        images = torch.randn(batch, image_channels(part), height, width)
        with torch.no_grad():
            expected, exact = part(images), precise(images.double())
        try:
            outputs = run(images)
        except Exception as error:  # each runtime has its own
            lines = str(error).strip().splitlines()
            raise InputError(
                f'{Path(path).name} cannot be run on images of {height}x{width}: {lines[0][:300]}. '
                'What has one row at the traced size, torch may take for one row at every size: '
                'try a larger --shape'
            ) from error
        for actual, wanted, truth in zip(outputs, expected, exact, strict=True):
            scale = wanted.abs().max().clamp(min=1e-6)
            largest = max(largest, ((actual - wanted).abs().max() / scale).item())
            rounding = max(rounding, ((wanted - truth).abs().max() / scale).item())
    if not largest < max(TOLERANCE, 30 * rounding):
        raise InputError(f'{Path(path).name} differs from torch by {largest:.1e} and is not kept')
    return Difference(largest, rounding)


def _runner(path: str) -> Callable[[Tensor], list[Tensor]]:
    if path.endswith('.pt2'):
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: [
        torch.from_numpy(output) for output in session.run(None, {'images': images.numpy()})
    ]


if __name__ == '__main__':
    main()
