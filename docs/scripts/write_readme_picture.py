"""Draw docs/_static/readme.png: predictions on built-in pictures, and AP against the resolution.

``python docs/scripts/write_readme_picture.py PICTURE...`` takes pictures that ``tools/predict.py``
drew, and what docs/resolution/results.csv holds of ``resolution_experiment.py``.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / 'docs/_static/readme.png'
RESULTS = ROOT / 'docs/resolution/results.csv'
SHOWN = {
    ('ResFormer', 'single'): ('tab:gray', 'trained at one resolution'),
    ('ResFormer', 'multi'): ('tab:blue', 'trained at several'),
}
TRAINING_RESOLUTION = 96
PICTURES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pictures', nargs='+', type=Path, help=f'{PICTURES} of tools/predict.py')
    args = parser.parse_args()
    with clear_errors():
        pictures = [cv2.imread(str(path)) for path in args.pictures]
        if len(pictures) != PICTURES or any(picture is None for picture in pictures):
            raise InputError(f'write_readme_picture.py takes {PICTURES} pictures')
        draw([picture[..., ::-1] for picture in pictures])
        print(f'written to {OUT}')


def draw(pictures: list[np.ndarray]) -> None:
    figure = Figure(figsize=(10, 3.4), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    for axes, picture in zip(left.subplots(2, PICTURES // 2).flat, pictures, strict=True):
        axes.imshow(picture)
        axes.axis('off')
    axes = right.subplots()
    for (backbone, training), (colour, label) in SHOWN.items():
        sides, means, spreads = read(backbone, training)
        axes.errorbar(sides, means, spreads, fmt='o-', capsize=2, color=colour, label=label)
    axes.axvline(TRAINING_RESOLUTION, color='black', ls=':', lw=1)
    axes.set(xscale='log', xlabel='short side of the test images (pixels)', ylabel='box AP (%)')
    axes.set_title(f'{backbone}, three trainings each on the built-in pictures', fontsize=9)
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=110, metadata={'Software': None})


def read(backbone: str, training: str) -> tuple[list[int], list[float], list[float]]:
    """Resolutions, and mean and standard deviation of the AP over the seeds."""
    values: dict[int, list[float]] = defaultdict(list)
    with open(RESULTS, newline='') as file:
        for row in csv.DictReader(file):
            if (row['task'], row['backbone'], row['training']) == ('detection', backbone, training):
                values[int(row['resolution'])].append(float(row['value']))
    sides = sorted(values)
    return sides, [np.mean(values[s]) for s in sides], [np.std(values[s], ddof=1) for s in sides]


if __name__ == '__main__':
    main()
