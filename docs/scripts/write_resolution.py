"""Write docs/resolution/results.md and its picture from the runs of resolution_experiment.py."""

import argparse
import csv
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from resolution_experiment import (
    BACKBONES,
    BASES,
    BATCH_SIZE,
    ITERATIONS,
    ROOT,
    TEST_RESOLUTIONS,
    TRAINING_RESOLUTION,
    TRAININGS,
    folder_of,
)

from mmrest.errors import InputError, clear_errors
from mmrest.multires.sweep import relative_area

FOLDER = ROOT / 'docs/resolution'
METRICS = {'detection': ('coco/bbox_mAP', 100), 'segmentation': ('mIoU', 1)}
COLORS = {'single': 'tab:gray', 'multi': 'tab:blue', 'multi + consistency': 'tab:red'}


@dataclass
class Run:
    """A training and its tests.

    Attributes:
        values: Resolution -> metric in percent.
        seconds: Of the training.
        environment: Of the tests.
    """

    values: dict[int, float]
    seconds: float
    environment: dict[str, str]

    @property
    def area(self) -> float:
        """Mean retention over log(resolution)."""
        return relative_area(self.values, TRAINING_RESOLUTION) or 0.0

    @property
    def mean(self) -> float:
        """Mean of the metric itself over log(resolution)."""
        logs = np.log(sorted(self.values))
        values = [self.values[r] for r in sorted(self.values)]
        return float(np.trapezoid(values, logs) / (logs[-1] - logs[0]))


Runs = dict[tuple[str, str, str], dict[int, Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--runs', type=Path, default=ROOT / 'work_dirs/resolution_experiment')
    args = parser.parse_args()
    with clear_errors():
        runs = read(args.runs)
        if not any(runs.values()):
            raise InputError(f'{args.runs} holds no finished run; see resolution_experiment.py')
        FOLDER.mkdir(exist_ok=True)
        write_csv(runs)
        draw(runs)
        (FOLDER / 'results.md').write_text(describe(runs))
        print(f'written to {FOLDER}')


def read(folder: Path) -> Runs:
    """The finished runs of every task, backbone and training."""
    found: Runs = {}
    for task, backbone, training in itertools.product(BASES, BACKBONES, TRAININGS):
        seeds = found.setdefault((task, backbone, training), {})
        pattern = folder_of(folder, task, backbone, training, '[0-9]*').name
        for run in sorted(folder.glob(f'{pattern}/done')):
            state = json.loads((run.parent / 'resolutions.json').read_text())
            name, factor = METRICS[task]
            measured = state['measurements']
            if failed := [m['error'] for m in measured if m['error']]:
                raise InputError(f'{run.parent} has a test that failed: {failed[0]}')
            values = {
                m['resolution']['short_side']: factor * m['metrics'].get(name, 0.0)
                for m in measured
            }
            seconds = float((run.parent / 'seconds').read_text())
            seed = int(run.parent.name.rsplit('_', 1)[1])
            seeds[seed] = Run(values, seconds, measured[0]['environment'])
    return found


def describe(runs: Runs) -> str:
    """The document."""
    environment = next(run.environment for seeds in runs.values() for run in seeds.values())
    parts = [
        '# Results of the resolution experiment',
        'Written by `docs/scripts/resolution_experiment.py`.',
        f'{ITERATIONS} iterations of {BATCH_SIZE} images, short side '
        f'{TRAINING_RESOLUTION}; mean and standard deviation over the seeds. '
        f'{environment["device"]}, one thread a run, torch {environment["torch"]}, float32, '
        f'{environment["date"]}. "mean" is the mean of the metric over log(resolution), '
        '"retention" the same relative to the training resolution, "s" the training time.',
        '![accuracy against the test resolution](results.png)',
    ]
    for task, (name, _) in METRICS.items():
        shown = f'{name} in percent' if task == 'detection' else name
        parts.append(f'## {task.capitalize()}: {shown}\n\n{_results(runs, task)}')
        parts.append(
            'Differences, seed by seed (mean and standard deviation), in points:\n\n'
            + _differences(runs, task)
        )
    return '\n\n'.join(parts) + '\n'


def _results(runs: Runs, task: str) -> str:
    header = ['backbone', 'training', 'seeds', *map(str, TEST_RESOLUTIONS)]
    lines = []
    for backbone, training in itertools.product(BACKBONES, TRAININGS):
        seeds = list(runs[task, backbone, training].values())
        if seeds:
            cells = [_spread([run.values[r] for run in seeds]) for r in TEST_RESOLUTIONS]
            cells += [
                _spread([run.mean for run in seeds]),
                _spread([run.area for run in seeds], digits=3),
                f'{np.mean([run.seconds for run in seeds]):.0f}',
            ]
            lines.append([backbone, training, str(len(seeds)), *cells])
    return _table([*header, 'mean', 'retention', 's'], lines)


def _differences(runs: Runs, task: str) -> str:
    lines = []
    for backbone in BACKBONES:
        for better, worse in itertools.pairwise(reversed(TRAININGS)):
            ours, theirs = (runs[task, backbone, training] for training in (better, worse))
            pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
            if pairs:
                lines.append([backbone, f'{better} - {worse}', *_gains(pairs)])
    return _table(['backbone', 'difference', *map(str, TEST_RESOLUTIONS), 'mean'], lines)


def _gains(pairs: list[tuple[Run, Run]]) -> list[str]:
    def gain(of: Callable[[Run], float]) -> str:
        return _spread([of(a) - of(b) for a, b in pairs], sign='+')

    return [
        *(gain(lambda run, r=r: run.values[r]) for r in TEST_RESOLUTIONS),
        gain(lambda r: r.mean),
    ]


def _spread(values: list[float], digits: int = 1, sign: str = '') -> str:
    mean = f'{np.mean(values):{sign}.{digits}f}'
    return f'{mean} ± {np.std(values, ddof=1):.{digits}f}' if len(values) > 1 else mean


def _table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def write_csv(runs: Runs) -> None:
    """Every value."""
    with open(FOLDER / 'results.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        header = ['task', 'backbone', 'training', 'seed', 'resolution', 'metric', 'value']
        writer.writerow([*header, 'training seconds', 'device', 'torch', 'date'])
        for (task, backbone, training), seeds in runs.items():
            for seed, run in seeds.items():
                about = [run.environment[name] for name in ('device', 'torch', 'date')]
                for resolution, value in sorted(run.values.items()):
                    which = [task, backbone, training, seed, resolution, METRICS[task][0]]
                    writer.writerow([*which, f'{value:.3f}', run.seconds, *about])


def draw(runs: Runs) -> None:
    """A panel for each task and backbone, a line for each training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout='constrained')
    panels = figure.subplots(len(BASES), len(BACKBONES), sharex=True, sharey='row')
    for axes, (task, backbone) in zip(
        panels.flat, itertools.product(BASES, BACKBONES), strict=True
    ):
        for training, color in COLORS.items():
            seeds = list(runs[task, backbone, training].values())
            if seeds:
                values = np.array([[run.values[r] for r in TEST_RESOLUTIONS] for run in seeds])
                middle = values.mean(0)
                spread = values.std(0, ddof=1) if len(values) > 1 else 0 * middle
                axes.plot(TEST_RESOLUTIONS, middle, 'o-', color=color, label=training)
                axes.fill_between(
                    TEST_RESOLUTIONS, middle - spread, middle + spread, color=color, alpha=0.2
                )
        axes.axvline(TRAINING_RESOLUTION, color='black', ls=':', lw=1)
        axes.set(title=f'{task}, {backbone}', xscale='log')
        axes.set_xticks(TEST_RESOLUTIONS, [str(r) for r in TEST_RESOLUTIONS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for axes, (name, factor) in zip(panels[:, 0], METRICS.values(), strict=True):
        axes.set_ylabel(f'{name} in percent' if factor == 100 else name)
    for axes in panels[-1]:
        axes.set_xlabel('short side of the test images')
    panels[0, 0].legend()
    figure.savefig(FOLDER / 'results.png', dpi=100)


if __name__ == '__main__':
    main()
