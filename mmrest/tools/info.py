"""What a config describes: ``mmrest info CONFIG``.

Levels of the backbone, parameters, multiply-adds of the backbone at an image size; with
``--measure`` also time and memory of a training step and of a prediction on this machine.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from mmrest.benchmark.complexity import count_image, count_parameters
from mmrest.benchmark.measuring import Case, measure_in_turn
from mmrest.benchmark.models import build_outline
from mmrest.commands.cli import add_config_arguments, config_from_arguments, parse_shape
from mmrest.commands.config import require_model, saved_config
from mmrest.commands.image_size import usual_shape
from mmrest.config_nodes import iterate_dicts, scope_of, task_model
from mmrest.engine.anchor_strides import find_misplaced_anchors
from mmrest.engine.image_channels import image_channels
from mmrest.engine.map_channels import find_difference
from mmrest.errors import ArgumentParser, InputError, clear_errors


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('config', help='a config of mmdet or mmseg, or the name of one of mmrest')
    parser.add_argument('--shape', metavar='HxW', help="image size (default: the config's own)")
    parser.add_argument(
        '--measure', action='store_true', help='also time and memory of a step, on a processor'
    )
    add_config_arguments(parser)
    args = parser.parse_args()
    with clear_errors():
        shape = parse_shape(args.shape) if args.shape else None
        cfg = config_from_arguments(args)
        require_model(cfg)
        shape = shape or usual_shape(cfg)
        facts = describe(cfg, shape)
        for key, value in facts.items():
            print(f'{key}: {value}')
        if 'will fail' in facts:
            sys.exit(1)
        if args.measure:
            with saved_config(args.config, args.cfg_options) as file:
                print('\n'.join(measure(file, shape)))


def describe(cfg: Any, shape: tuple[int, int]) -> dict[str, str]:
    """Name -> value of what a config comes to.

    Args:
        cfg: Of mmdet or mmseg; weights that it names are not read.
        shape: (height, width) that multiply-adds are counted at.
    """
    model = build_outline(cfg)
    backbone = getattr(model, 'backbone', None)
    whole = count_parameters(model)
    facts = {
        'model': f'{task_model(cfg).type} ({scope_of(cfg)})',
        'parameters': f'{whole:.2f} M',
    }
    if isinstance(backbone, nn.Module):
        facts |= _describe_backbone(model, shape, whole)
    if difference := find_difference(model):
        facts['will fail'] = difference
    elif misplaced := find_misplaced_anchors(model):
        facts['doubtful'] = misplaced
    weights = [node['checkpoint'] for node in iterate_dicts(cfg.model) if node.get('checkpoint')]
    weights += [cfg.load_from] if cfg.get('load_from') else []
    facts['starts from'] = ', '.join(weights) or 'random weights'
    if loader := cfg.get('train_dataloader'):
        facts['images a step and GPU'] = str(loader.get('batch_size', 1))
    return facts


def _describe_backbone(model: nn.Module, shape: tuple[int, int], whole: float) -> dict[str, str]:
    backbone = model.backbone
    parameters = count_parameters(backbone)
    facts = {
        'backbone': f'{type(backbone).__name__}, {parameters:.2f} M parameters; neck and heads '
        f'have {whole - parameters:.2f} M',
    }
    if hasattr(backbone, 'out_channels') and hasattr(backbone, 'out_strides'):
        sizes = backbone.map_sizes(shape)
        levels = zip(backbone.out_strides, backbone.out_channels, sizes, strict=True)
        facts['levels'] = '; '.join(
            f'stride {stride}, {channels} channels, {height}x{width}'
            for stride, channels, (height, width) in levels
        )
    try:
        macs = count_image(backbone, image_channels(model), shape)
        counted = f'{macs:.2f} G (convolutions, matrix products, attention)'
    except InputError as error:
        counted = f'not counted; {error}'
    facts[f'multiply-adds of the backbone at {shape[0]}x{shape[1]}'] = counted
    return facts


def measure(path: str, shape: tuple[int, int]) -> list[str]:
    """Lines about time and memory of the whole model, one image, on this machine's processor."""
    lines = []
    for mode, name in (('infer', 'prediction'), ('train', 'training step without optimizer')):
        (result,) = measure_in_turn([Case(path, shape, mode, fused=True)], steps=2)
        if result.error:
            raise InputError(f'{name}: {result.error}')
        lines.append(
            f'{name}, measured here on one image: {result.median_seconds:.2f} s, '
            f'{result.peak_bytes / 1e6:.0f} MB at most'
        )
    return lines


if __name__ == '__main__':
    main()
