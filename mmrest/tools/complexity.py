"""Parameters and multiply-adds of backbones, and parameters of whole models.

Without arguments every published variant of every family, or of those that are named; and the whole
models of configs. docs/parameters.md has both tables.
mmrest/benchmark/complexity.py says what is counted.
"""

from collections.abc import Iterable

import torch
from mmengine.registry import MODELS, DefaultScope

from mmrest.backbones import BACKBONES
from mmrest.benchmark.complexity import count_macs, count_parameters
from mmrest.commands import load_config
from mmrest.commands.cli import parse_shape
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
        '--shapes', nargs='+', default=['224x224', '800x1344'], metavar='HxW', help='image sizes'
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
        shapes = [parse_shape(shape) for shape in args.shapes]
        if configs:
            rows = [describe_config(path) for path in configs]
            print_row(['config', 'parameters (M)', 'backbone', 'rest'], header=True)
            for row in rows:
                print_row(row)
        if families or not configs:
            print_families(families or BACKBONES, shapes)


def print_families(names: Iterable[str], shapes: list[tuple[int, int]]) -> None:
    """A table of every published variant."""
    columns = ['backbone', 'parameters (M)', *(f'GMACs at {h}x{w}' for h, w in shapes)]
    print_row(columns, header=True)
    images = [torch.empty(1, 3, *shape, device='meta') for shape in shapes]
    for family in map(BACKBONES.__getitem__, names):
        for name in family.variants:
            with torch.device('meta'):
                model = family(arch=name).eval()
            macs = [f'{count_macs(model, image):.2f}' for image in images]
            print_row([f'{family.__name__} {name}', f'{count_parameters(model):.2f}', *macs])


def print_row(cells: Iterable[str], header: bool = False) -> None:
    cells = list(cells)
    print(f'| {" | ".join(cells)} |')
    if header:
        print(f'|{"---|" * len(cells)}')


def describe_config(path: str) -> list[str]:
    """The config, its model's parameters, the backbone's, and those of neck and heads."""
    cfg = load_config(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(cfg.model)
    whole, backbone = count_parameters(model), count_parameters(model.backbone)
    return [path, f'{whole:.2f}', f'{backbone:.2f}', f'{whole - backbone:.2f}']


if __name__ == '__main__':
    main()
