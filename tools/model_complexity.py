"""Parameters and multiply-adds of every published variant, as the table in the README.

Multiply-adds are counted by torch's ``FlopCounterMode`` (convolutions, matrix products and
attention; norms, activations, softmax and other elementwise work are not counted), on meta
tensors, so nothing is computed.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmrest.backbones import PyramidBackbone
from mmrest.engine.cli import parse_shape
from mmrest.errors import clear_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--shapes', nargs='+', default=['224x224', '800x1344'], metavar='HxW', help='image sizes'
    )
    args = parser.parse_args()
    with clear_errors():
        shapes = [parse_shape(shape) for shape in args.shapes]
    columns = ['backbone', 'parameters (M)', *(f'GMACs at {h}x{w}' for h, w in shapes)]
    print(f'| {" | ".join(columns)} |')
    print(f'|{"---|" * len(columns)}')
    for family in PyramidBackbone.families():
        for name in family.variants:
            with torch.device('meta'):
                model = family(arch=name).eval()
            row = [f'{family.__name__} {name}', f'{count_parameters(model):.2f}']
            row += [f'{count_macs(model, *shape):.2f}' for shape in shapes]
            print(f'| {" | ".join(row)} |')


def count_parameters(model: torch.nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def count_macs(model: torch.nn.Module, height: int, width: int) -> float:
    """In billions, for one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(torch.empty(1, 3, height, width, device='meta'))
    return counter.get_total_flops() / 2e9


if __name__ == '__main__':
    main()
