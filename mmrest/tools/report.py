"""Write a page about runs: ``mmrest report WORK_DIR...``.

One HTML file with the results, curves, resolution sweeps, benchmarks, predictions, configs and
environments that lie in the work directories. Nothing is run or measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmrest.commands.output_files import require_new_file
from mmrest.errors import ArgumentParser, InputError, clear_errors
from mmrest.report import read_run, write_page


def main() -> None:
    """Run the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='of a training or a test')
    parser.add_argument(
        '--out', metavar='FILE.html', help='by default report.html in the (first) WORK_DIR'
    )
    parser.add_argument('--names', nargs='+', metavar='NAME', help='what the page calls the runs')
    parser.add_argument('--force', action='store_true', help='replace FILE.html')
    args = parser.parse_args()
    with clear_errors():
        if args.names and len(args.names) != len(args.work_dirs):
            raise InputError(
                f'--names has {len(args.names)} names for {len(args.work_dirs)} work directories'
            )
        names = args.names or unique_names(args.work_dirs)
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise InputError('--names: every run needs a name of its own')
        runs = [read_run(folder) for folder in args.work_dirs]
        for run, name in zip(runs, names, strict=True):
            run.name = name
        out = Path(args.out or Path(args.work_dirs[0], 'report.html'))
        require_new_file('--out', str(out), args.force, '--force replaces it')
        write_page(runs, out)
        for run in runs:
            if not run.training:
                print('; '.join([f'{run.name}: no training', *run.notes]), file=sys.stderr)
        print(out)


def unique_names(folders: list[str]) -> list[str]:
    """The last part of each path, or as many parts as tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts))):
        names = ['/'.join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{i + 1}: {folder}' for i, folder in enumerate(folders)]


if __name__ == '__main__':
    main()
