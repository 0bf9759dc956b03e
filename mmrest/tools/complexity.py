"""Parameters and multiply-adds of backbones, and parameters of whole models.

Without arguments every published variant of every family, or of those that are named; and the whole
models of configs. docs/parameters.md has both tables.
mmrest/benchmark/complexity.py says what is counted.
"""

from collections.abc import Iterable

import torch
from torch import nn

from mmrest.backbones import BACKBONES
from mmrest.benchmark.complexity import count_image, count_parameters
from mmrest.benchmark.models import build_outline
from mmrest.commands import load_config
from mmrest.commands.cli import parse_shape
from mmrest.commands.config import require_model
from mmrest.commands.processes import warn
from mmrest.engine.image_channels import image_channels
from mmrest.errors import ArgumentParser, InputError, clear_errors, did_you_mean
from mmrest.lookup import config_names


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument(
        'models',
        nargs='*',
        metavar='FAMILY|CONFIG',
        help=f'families, all if none is named: {", ".join(BACKBONES)}; or configs',
    )
    parser.add_argument(
        '--shapes',
        nargs='+',
        metavar='HxW',
        help="image sizes (default: 224x224 and 800x1344; of a config the backbone's are counted)",
    )
    parser.add_argument(
        '--configs', nargs='+', default=[], metavar='CONFIG', help='the same as configs before it'
    )
    args = parser.parse_args()
    with clear_errors():
        configs = [name for name in args.models if name in config_names() or '.py' in name]
        families = [name for name in args.models if name not in configs]
        configs += args.configs
        if unknown := set(families) - set(BACKBONES):
            hint = did_you_mean(min(unknown), [*BACKBONES, *config_names()])
            raise InputError(
                f'no family {", ".join(sorted(unknown))}; there are {", ".join(BACKBONES)}{hint}'
            )
        given = [parse_shape(shape) for shape in args.shapes or ()]
        if configs:
            rows = [describe_config(path, given) for path in configs]
            columns = ['config', 'parameters (M)', 'backbone', 'rest']
            print_row([*columns, *_of_sizes('GMACs of the backbone', given)], header=True)
            for row in rows:
                print_row(row)
        if families or not configs:
            print_families(families or BACKBONES, given or [(224, 224), (800, 1344)])


def print_families(names: Iterable[str], shapes: list[tuple[int, int]]) -> None:
    """A table of every published variant."""
    print_row(['backbone', 'parameters (M)', *_of_sizes('GMACs', shapes)], header=True)
    for family in map(BACKBONES.__getitem__, names):
        for name in family.variants:
            with torch.device('meta'):
                model = family(arch=name).eval()
            row = [f'{family.__name__} {name}', f'{count_parameters(model):.2f}']
            print_row([*row, *_macs(model, model, shapes)])


def _of_sizes(what: str, shapes: Iterable[tuple[int, int]]) -> list[str]:
    return [f'{what} at {height}x{width}' for height, width in shapes]


def _macs(whole: nn.Module, backbone: nn.Module, shapes: Iterable[tuple[int, int]]) -> list[str]:
    cells = []
    for shape in shapes:
        try:
            cells.append(f'{count_image(backbone, image_channels(whole), shape):.2f}')
        except InputError as error:
            warn(str(error))
            cells.append('not counted')
    return cells


def print_row(cells: Iterable[str], header: bool = False) -> None:
    cells = list(cells)
    print(f'| {" | ".join(cells)} |')
    if header:
        print(f'|{"---|" * len(cells)}')


def describe_config(path: str, shapes: Iterable[tuple[int, int]] = ()) -> list[str]:
    """The config, its model's parameters, the backbone's, those of neck and heads, and GMACs."""
    cfg = load_config(path)
    require_model(cfg)
    model = build_outline(cfg)
    whole, part = count_parameters(model), getattr(model, 'backbone', None)
    if not isinstance(part, nn.Module):  # a tracker holds a detector, for example
        return [path, f'{whole:.2f}', '', '', *('' for _ in shapes)]
    backbone = count_parameters(part)
    counted = [path, f'{whole:.2f}', f'{backbone:.2f}', f'{whole - backbone:.2f}']
    return [*counted, *_macs(model, part, shapes)]


if __name__ == '__main__':
    main()
