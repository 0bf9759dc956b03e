"""The weights that the authors published: ``mmrest weights [NAME ...] [--download]``.

A config takes one by ``init_cfg=dict(type='Pretrained', checkpoint='mmrest://NAME')``.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from mmrest.checkpoints.published import (
    SCHEME,
    Published,
    find_published,
    how_to_get,
    local_file,
    obtain,
    published,
    weights_folder,
)
from mmrest.errors import ArgumentParser, InputError, clear_errors

HOW = {
    'direct': 'downloads',
    'drive': 'downloads (gdown)',
    'by hand': 'by hand',
    'nowhere': 'no link',
}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('names', nargs='*', metavar='NAME', help='all if none is named')
    parser.add_argument('--download', action='store_true', help='fetch those that are not here')
    parser.add_argument('--json', action='store_true', help='as JSON')
    args = parser.parse_args()
    with clear_errors():
        chosen = [find_published(name) for name in args.names]
        if args.download:
            if not chosen:
                raise InputError('--download: name what to fetch, for example rest_small')
            for weights in chosen:
                print(obtain(weights.name))
        elif args.json:
            print(json.dumps([as_json(w) for w in chosen or published().values()], indent=1))
        elif chosen:
            print('\n'.join(map(describe, chosen)))
        else:
            print('\n'.join(table()))


def table() -> list[str]:
    """A line for each file."""
    lines = [f'{"name":36} {"here":18} licence', f'(kept in {weights_folder()})']
    for weights in published().values():
        here = 'yes' if local_file(weights) else HOW[weights.how]
        lines.append(f'{weights.name:36} {here:18} {weights.licence}')
    return [*lines, 'python -m mmrest weights NAME tells where a file is.']


def describe(weights: Published) -> str:
    """What fits a file, and where it is."""
    fits = f'{SCHEME}{weights.name}: {weights.family} {weights.variant}, {weights.task}'
    path = local_file(weights)
    return f'{fits}\n  here: {path}' if path else f'{fits}\n{how_to_get(weights)}'


def as_json(weights: Published) -> dict[str, str | None]:
    """The table's row, and where the file is on this machine."""
    path = local_file(weights)
    return {**asdict(weights), 'how': weights.how, 'path': str(path) if path else None}


if __name__ == '__main__':
    main()
