"""Families, variants and configs: ``mmrest list [FAMILY]``."""

from __future__ import annotations

from pathlib import Path

import torch

from mmrest.backbones import BACKBONES
from mmrest.benchmark.complexity import count_parameters
from mmrest.errors import ArgumentParser, InputError, clear_errors, did_you_mean
from mmrest.lookup import config_names, config_path


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('family', nargs='?', help='with all its configs; or a part of their names')
    args = parser.parse_args()
    with clear_errors():
        print('\n'.join(list_family(args.family) if args.family else list_families()))


def list_families() -> list[str]:
    """A line for each family: its variants, with million parameters, and how many configs."""
    lines = ['family: variants (million parameters); configs']
    for name, family in BACKBONES.items():
        variants = []
        for arch in family.variants:
            with torch.device('meta'):
                variants.append(f'{arch} ({count_parameters(family(arch=arch)):.1f})')
        lines.append(f'{name}: {", ".join(variants)}; {len(configs_of(name))} configs')
    return [*lines, 'python -m mmrest list FAMILY names the configs.']


def configs_of(family: str) -> list[str]:
    """Names of a family's configs."""
    return [name for name in config_names() if f'_{family.lower()}_' in name]


def list_family(text: str) -> list[str]:
    """A line for each config of a family, or of a part of a name: its first line of comment.

    Raises:
        InputError: No config has it in its name.
    """
    names = configs_of(text) or [name for name in config_names() if text.lower() in name]
    if not names and text.lower() in map(str.lower, BACKBONES):
        raise InputError(f'{text} has no config yet')
    if not names:
        hint = did_you_mean(text, [*BACKBONES, *config_names()], most=2)
        raise InputError(
            f'no config has {text} in its name; families are {", ".join(BACKBONES)}{hint}'
        )
    width = max(map(len, names))
    return [f'{name:{width}}  {title_of(name)}' for name in names]


def title_of(name: str) -> str:
    """What a config says of itself in its first lines."""
    head = Path(config_path(name)).read_text(encoding='utf-8').split('\n_base_')[0]
    lines = [line.removeprefix('#').strip() for line in head.splitlines()]
    return ' '.join(lines).split('. ')[0].rstrip('.')


if __name__ == '__main__':
    main()
