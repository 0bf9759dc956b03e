"""Parameters and multiply-adds of backbones and of whole models.

Without arguments every published variant of every family, or of those that are named; and the whole
models of configs, of which the multiply-adds are counted with ``--whole``. docs/parameters.md has
the tables, and mmrest/benchmark/complexity.py says what is counted.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from mmrest.backbones import BACKBONES
from mmrest.benchmark.complexity import count_image, count_parameters, count_whole
from mmrest.benchmark.models import build_backbone, build_outline, build_whole, parse_model
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
        help=f'families, all if none is named: {", ".join(BACKBONES)}; with arguments, for '
        "example 'MViTV2:arch=tiny,attention=pooling'; or configs",
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
    parser.add_argument(
        '--whole',
        action='store_true',
        help="count configs' whole models, too (seconds to minutes each; detectors in two stages: "
        '1,000 proposals, masks of 100)',
    )
    args = parser.parse_args()
    with clear_errors():
        configs = [name for name in args.models if name in config_names() or '.py' in name]
        families = [name for name in args.models if name not in configs]
        configs += args.configs
        if unknown := {name for name in families if name.partition(':')[0] not in BACKBONES}:
            hint = did_you_mean(min(unknown), [*BACKBONES, *config_names()])
            raise InputError(
                f'no family {", ".join(sorted(unknown))}; there are {", ".join(BACKBONES)}{hint}'
            )
        given = [parse_shape(shape) for shape in args.shapes or ()]
        if args.whole and not (configs and given):
            raise InputError('--whole counts multiply-adds of configs: name some, and --shapes')
        if configs:
            rows = [describe_config(path, given, args.whole) for path in configs]
            columns = ['config', 'parameters (M)', 'backbone', 'rest']
            columns += _of_sizes('GMACs of the backbone', given)
            columns += _of_sizes('GMACs of the whole', given) if args.whole else []
            print_row(columns, header=True)
            for row in rows:
                print_row(row)
        if families or not configs:
            print_families(families or BACKBONES, given or [(224, 224), (800, 1344)])


def print_families(names: Iterable[str], shapes: list[tuple[int, int]]) -> None:
    """A table of every published variant, or of the form that is given."""
    print_row(['backbone', 'parameters (M)', *_of_sizes('GMACs', shapes)], header=True)
    for name in names:
        if ':' in name:
            forms = {name: parse_model(name)}
        else:
            variants = BACKBONES[name].variants
            forms = {f'{name} {variant}': dict(type=name, arch=variant) for variant in variants}
        for form, cfg in forms.items():
            with torch.device('meta'):
                model = build_backbone(cfg).eval()
            row = [form, f'{count_parameters(model):.2f}']
            print_row([*row, *_macs(model, model, shapes)])


def _of_sizes(what: str, shapes: Iterable[tuple[int, int]]) -> list[str]:
    return [f'{what} at {height}x{width}' for height, width in shapes]


def _macs(
    whole: nn.Module,
    counted: nn.Module,
    shapes: Iterable[tuple[int, int]],
    count: Callable[[nn.Module, int, tuple[int, int]], float] = count_image,
) -> list[str]:
    cells = []
    for shape in shapes:
        try:
            cells.append(f'{count(counted, image_channels(whole), shape):.2f}')
        except InputError as error:
            warn(str(error))
            cells.append('not counted')
    return cells


def print_row(cells: Iterable[str], header: bool = False) -> None:
    cells = list(cells)
    print(f'| {" | ".join(cells)} |')
    if header:
        print(f'|{"---|" * len(cells)}')


def describe_config(
    path: str, shapes: Sequence[tuple[int, int]] = (), whole_too: bool = False
) -> list[str]:
    """The config, its model's parameters, the backbone's, those of neck and heads, and GMACs."""
    cfg = load_config(path)
    require_model(cfg)
    model = build_outline(cfg)
    whole, part = count_parameters(model), getattr(model, 'backbone', None)
    if not isinstance(part, nn.Module):  # a tracker holds a detector, for example
        return [path, f'{whole:.2f}', '', '', *[''] * (len(shapes) * (1 + whole_too))]
    backbone = count_parameters(part)
    counted = [path, f'{whole:.2f}', f'{backbone:.2f}', f'{whole - backbone:.2f}']
    counted += _macs(model, part, shapes)
    if whole_too:
        with_weights = build_whole(cfg.filename).eval()
        counted += _macs(with_weights, with_weights, shapes, count_whole)
    return counted


if __name__ == '__main__':
    main()
