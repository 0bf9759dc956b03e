"""Parameters and multiply-adds of backbones, and parameters of whole models.

Without arguments every published variant of every family, or of those that are named, as the table
in docs/parameters.md; with ``--configs`` the models of configs, as the table in docs/parameters.md.
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
        'families',
        nargs='*',
        metavar='FAMILY',
        help=f'all if none is named: {", ".join(BACKBONES)}',
    )
    parser.add_argument(
        '--shapes', nargs='+', default=['224x224', '800x1344'], metavar='HxW', help='image sizes'
    )
    parser.add_argument('--configs', nargs='+', metavar='CONFIG', help='count whole models')
    args = parser.parse_args()
    with clear_errors():
        if args.configs:
            rows = [describe_config(path) for path in args.configs]
            print_row(['config', 'parameters (M)', 'backbone', 'rest'], header=True)
            for row in rows:
                print_row(row)
            return
        if configs := [name for name in args.families if name in config_names() or '.py' in name]:
            raise InputError(f'configs follow --configs: --configs {" ".join(configs)}')
        if unknown := set(args.families) - set(BACKBONES):
            hint = did_you_mean(min(unknown), BACKBONES)
            raise InputError(
                f'no family {", ".join(sorted(unknown))}; there are {", ".join(BACKBONES)}{hint}'
            )
        families = [BACKBONES[name] for name in args.families or BACKBONES]
        shapes = [parse_shape(shape) for shape in args.shapes]
        columns = ['backbone', 'parameters (M)', *(f'GMACs at {h}x{w}' for h, w in shapes)]
        print_row(columns, header=True)
        for family in families:
            for name in family.variants:
                with torch.device('meta'):
                    model = family(arch=name).eval()
                images = [torch.empty(1, 3, *shape, device='meta') for shape in shapes]
                macs = [f'{count_macs(model, image):.2f}' for image in images]
                row = [f'{family.__name__} {name}', f'{count_parameters(model):.2f}', *macs]
                print_row(row)


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
