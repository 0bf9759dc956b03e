"""Write docs/models.md: every variant of every family, what it costs and what its authors report.

``python docs/scripts/write_models.py --count`` counts parameters and multiply-adds anew (minutes);
``--measure [FAMILY:VARIANT ...]`` measures time and memory of what has no row yet, with nothing
else running, and keeps what it has when it is stopped. Results are quoted from the first lines of
the configs.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import torch
from mmengine.config import Config

from mmrest.backbones import BACKBONES
from mmrest.benchmark.complexity import count_macs, count_parameters
from mmrest.benchmark.machine import describe_machine
from mmrest.benchmark.measuring import Case, Result, measure_in_turn
from mmrest.commands.output_files import require_new_file
from mmrest.config_nodes import task_model
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/models'
DOCUMENT = ROOT / 'docs/models.md'
SHAPES = (512, 512), (800, 1344)
COUNTED = 'backbone', 'parameters (M)', *(f'GMACs at {h}x{w}' for h, w in SHAPES)
MEASURED = 'infer ms', 'infer peak MB', 'train ms', 'train peak MB'
TABLE = (*COUNTED, *MEASURED, 'run', "the authors' results")
PICTURE = FOLDER / 'ap_by_time.png'


class Source(NamedTuple):
    """Where a family is from.

    Attributes:
        paper: On arXiv.
        code: The authors' repositories.
        licence: Of their code; also of their weights where they say nothing else.
        weights: Where they are, and their licence where it differs.
    """

    paper: str
    code: str
    licence: str
    weights: str = 'linked in the README of the code'


SOURCES = {
    'ResT': Source('2105.13677', 'wofmanaf/ResT', 'Apache-2.0'),
    'ResTV2': Source('2204.07366', 'wofmanaf/ResT', 'Apache-2.0'),
    'ResFormer': Source('2212.00776', 'ruitian12/resformer', 'MIT'),
    'MViTV2': Source(
        '2112.01526', 'facebookresearch/mvit, detectron2 (projects/MViTv2)', 'Apache-2.0'
    ),
    'PVT': Source('2102.12122', 'whai362/PVT', 'Apache-2.0', 'releases of the code, "v2"'),
    'PVTV2': Source('2106.13797', 'whai362/PVT', 'Apache-2.0', 'releases of the code, "v2"'),
    'TwinsPCPVT': Source('2104.13840', 'Meituan-AutoML/Twins', 'Apache-2.0'),
    'TwinsSVT': Source('2104.13840', 'Meituan-AutoML/Twins', 'Apache-2.0'),
    'P2T': Source(
        '2106.12011',
        'yuhuan-wu/P2T',
        'CC BY-NC-SA 4.0',
        'linked in the README of the code; **non-commercial use alone**',
    ),
    'CSWin': Source(
        '2107.00652',
        'microsoft/CSWin-Transformer',
        'MIT',
        'releases of the code, v0.1.0 and (UPerNet) v0.2.0',
    ),
    'GPViT': Source(
        '2212.06795', 'ChenhongyiYang/GPViT', 'Apache-2.0', 'releases of the code, v0.0.1'
    ),
    'GPViTAdapter': Source(
        '2212.06795 and 2205.08534',
        'ChenhongyiYang/GPViT',
        'Apache-2.0',
        'releases of the code, v0.0.1 (ImageNet, COCO)',
    ),
    'Swin': Source(
        '2103.14030',
        'microsoft/Swin-Transformer; SwinTransformer/Swin-Transformer-Object-Detection',
        'MIT; Apache-2.0',
    ),
}


def source_of(family: str) -> Source:
    """Where a family is from.

    Raises:
        InputError: It is not entered yet.
    """
    if family not in SOURCES:
        raise InputError(f'enter the paper, code and licence of {family} in SOURCES of {__file__}')
    return SOURCES[family]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--count', action='store_true', help='count anew')
    parser.add_argument(
        '--measure', nargs='*', metavar='FAMILY:VARIANT', help='all variants if none is named'
    )
    parser.add_argument('--threads', type=int, default=0, help='of the processor; 0: all')
    parser.add_argument('--steps', type=int, default=3, help='that are counted, after another')
    parser.add_argument('--out', type=Path, default=DOCUMENT)
    args = parser.parse_args()
    with clear_errors():
        replace = args.out.resolve() == DOCUMENT
        require_new_file('--out', args.out, replace, 'only the document itself is replaced')
        wanted = [tuple(name.split(':')) for name in args.measure or ()]
        if unknown := set(wanted) - set(variants()):
            raise InputError(f'--measure: unknown {sorted(unknown)}; write FAMILY:VARIANT')
        if args.count:
            write_rows('complexity', map(count, variants()))
        if args.measure is not None:
            measure_missing(wanted or list(variants()), args.threads, args.steps)
        if replace:
            draw()
        args.out.write_text(write())
        print(f'written to {args.out}')


def variants() -> Iterator[tuple[str, str]]:
    """Family and published variant."""
    for family in BACKBONES.values():
        for name in family.variants:
            yield family.__name__, name


def count(variant: tuple[str, str]) -> dict[str, str]:
    """Parameters and multiply-adds, with the output norms; ResFormer with its default pyramid."""
    family, name = variant
    with torch.device('meta'):
        model = BACKBONES[family](arch=name).eval()
    row = {'backbone': f'{family} {name}', 'parameters (M)': f'{count_parameters(model):.2f}'}
    for height, width in SHAPES:
        images = torch.empty(1, 3, height, width, device='meta')
        row[f'GMACs at {height}x{width}'] = f'{count_macs(model, images):.2f}'
    return row


def measure_missing(wanted: Iterable[tuple[str, str]], threads: int, steps: int) -> None:
    """Measure one variant after the other, and keep each row at once."""
    rows = read_rows('speed')
    for family, name in wanted:
        if f'{family} {name}' in rows:
            continue
        cfg = dict(type=family, arch=name)
        cases = [
            Case(cfg, (800, 1344), mode, threads=threads, fused=True) for mode in ('infer', 'train')
        ]
        row = {'backbone': f'{family} {name}'}
        for case in cases:  # not together: the large ones need all memory
            (result,) = measure_in_turn([case], steps)
            row |= described(result)
        rows[row['backbone']] = {**row, 'steps': str(steps), **describe_machine('cpu', threads)}
        write_rows('speed', rows.values())
        print({key: row[key] for key in ('backbone', *MEASURED)}, flush=True)


def described(result: Result) -> dict[str, str]:
    """Cells of a measurement.

    Raises:
        InputError: It failed, and not for want of memory.
    """
    mode = result.case.mode
    if not result.error:
        milliseconds, megabytes = 1e3 * result.median_seconds, result.peak_bytes / 1e6
        return {f'{mode} ms': f'{milliseconds:.0f}', f'{mode} peak MB': f'{megabytes:.0f}'}
    if not re.search('ended with -9|allocate memory', result.error):
        raise InputError(f'{result.case.model} could not be measured: {result.error}')
    there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]  # as `ulimit -v` sets it
    room = there if allowed == resource.RLIM_INFINITY else min(there, allowed)
    return {f'{mode} ms': '-', f'{mode} peak MB': f'no room in {room / 1e6:.0f}'}


def read_rows(name: str) -> dict[str, dict[str, str]]:
    """Rows of a file by their backbone."""
    file = FOLDER / f'{name}.csv'
    if not file.exists():
        return {}
    with open(file, newline='') as opened:
        return {row['backbone']: row for row in csv.DictReader(opened)}


def write_rows(name: str, rows: Iterable[dict[str, str]]) -> None:
    """Replace a file."""
    rows = list(rows)
    with open(FOLDER / f'{name}.csv', 'w', newline='') as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def quoted_results() -> dict[str, list[tuple[str, str]]]:
    """Backbone -> (model and schedule, result) that the configs quote from its authors."""
    quoted: dict[str, list[tuple[str, str]]] = {}
    pattern = r"# ([^,]+), [^,]+, ([^:]+): (.+?) \(authors' result"
    families = {family.lower(): family for family in BACKBONES}
    for path in sorted(ROOT.glob('configs/*.py')):
        head = path.read_text().split('\n_base_')[0].replace('\n# ', ' ')
        found = re.match(pattern, head)
        named = re.fullmatch(
            rf'.+?_({"|".join(families)})_(.+?)(_3x|_mr|_no_fpn)*_(coco|ade20k)', path.stem
        )
        if found and named and '_no_fpn' not in path.stem:
            model, schedule, result = found.groups()
            result = re.sub(r'([\d.]+) box AP, ([\d.]+) mask AP', r'\1 / \2', result)
            result = result.removesuffix(' AP').removesuffix(' mIoU')
            schedule = schedule.replace('COCO', '').strip(' ,')
            task = model if path.stem.endswith('ade20k') else f'{model} {schedule}'
            backbone = task_model(Config.fromfile(path)).backbone
            quoted.setdefault(f'{families[named[1]]} {backbone.arch}', []).append((task, result))
    return quoted


def write() -> str:
    """The document."""
    counted, measured, quoted = read_rows('complexity'), read_rows('speed'), quoted_results()
    parts = [(FOLDER / 'introduction.md').read_text().rstrip()]
    runs = sorted({_environment(row) for row in measured.values()})
    letters = dict(zip(runs, ascii_lowercase, strict=False))
    for row in measured.values():
        row['run'] = letters[_environment(row)]
    for family in BACKBONES:
        source = source_of(family)
        rows = []
        for _, name in (v for v in variants() if v[0] == family):
            backbone = f'{family} {name}'
            results = '; '.join(f'{task} {result}' for task, result in quoted.get(backbone, ()))
            own = {**counted.get(backbone, {}), **measured.get(backbone, {})}
            rows.append([backbone, *(own.get(key, '-') for key in TABLE[1:-1]), results or '-'])
        parts.append(
            f"## {family}\n\narXiv {source.paper}. Authors' code: {source.code} "
            f'({source.licence}). Weights: {source.weights}.\n\n{_table(TABLE, rows)}'
        )
    listed = '\n'.join(f'- {letter}: {run}' for run, letter in letters.items())
    parts.append('## Measured on\n\n' + (listed or 'Nothing yet.'))
    if PICTURE.exists():
        parts.append('## Accuracy against time\n\nBox AP of Mask R-CNN 1x that the authors report, '
                     'against the time of the backbone\'s inference measured here.\n\n'
                     f'![AP against time](models/{PICTURE.name})')  # fmt: skip
    return '\n\n'.join(parts) + '\n'


def draw() -> None:
    """Quoted box AP of Mask R-CNN 1x against measured time, where both are known."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    quoted, measured = quoted_results(), read_rows('speed')
    devices = Counter(row['device'] for row in measured.values())
    device = max(devices, key=devices.get, default=None)
    measured = {name: row for name, row in measured.items() if row['device'] == device}
    for family, name in variants():
        results = dict(quoted.get(f'{family} {name}', ()))
        row = measured.get(f'{family} {name}')
        if row and 'Mask R-CNN 1x' in results:
            ap = float(results['Mask R-CNN 1x'].split(' / ')[0])
            points.setdefault(family, []).append((float(row['infer ms']), ap, name))
    if not points:
        return
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout='constrained')
    for family, values in points.items():
        times, aps, names = zip(*sorted(values), strict=True)
        axes.plot(times, aps, marker='o', label=family)
        for time, ap, name in zip(times, aps, names, strict=True):
            axes.annotate(name, (time, ap), textcoords='offset points', xytext=(4, -10), fontsize=8)
    axes.set(
        xscale='log',
        xlabel=f'ms, backbone, 800x1344, one thread of {device}',
        ylabel='box AP (authors), Mask R-CNN 1x',
    )
    axes.legend()
    figure.savefig(PICTURE, dpi=100, metadata={'Software': None})


def _environment(row: dict[str, str]) -> str:
    return (
        f'{row["date"]}, commit {row["commit"]}: {row["device"]}, {row["threads"]} threads, '
        f'torch {row["torch"]}, float32, one image of 800x1344, medians of {row["steps"]} step(s) '
        'after a warm-up; inference with the model fused, training without an optimizer'
    )


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header)]
    lines += [['---'] * len(lines[0]), *map(list, rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


if __name__ == '__main__':
    main()
