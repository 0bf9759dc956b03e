"""Write model-index.yml and configs/metafile.yml, by which OpenMMLab's mim finds models.

Results are the authors', quoted from the first lines of the configs, and named so.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml
from write_models import ROOT, source_of

from mmrest.backbones import BACKBONES
from mmrest.errors import clear_errors
from mmrest.lookup import config_names
from mmrest.tools.list import title_of

INDEX = ROOT / 'mmrest/.mim/model-index.yml'
METAFILE = ROOT / 'configs/metafile.yml'
DATASETS = {'coco': 'COCO', 'ade20k': 'ADE20K', 'shapes': 'built-in shapes'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out-dir', type=Path, help='write both here instead')
    args = parser.parse_args()
    with clear_errors():
        index, metafile = INDEX, METAFILE
        if args.out_dir:
            index, metafile = args.out_dir / INDEX.name, args.out_dir / METAFILE.name
        index.write_text(yaml.safe_dump({'Import': ['configs/metafile.yml']}))
        content = {'Collections': collections(), 'Models': [model(n) for n in config_names()]}
        metafile.write_text(yaml.safe_dump(content, sort_keys=False, width=100))
        print(f'written to {index} and {metafile}')


def collections() -> list[dict[str, Any]]:
    """An entry for each family."""
    return [
        {
            'Name': family,
            'Paper': {'URL': f'https://arxiv.org/abs/{source_of(family).paper.split()[0]}'},
        }
        for family in BACKBONES
    ]


def model(name: str) -> dict[str, Any]:
    """An entry for a config."""
    families = {family.lower(): family for family in BACKBONES}
    found = re.search(rf'_({"|".join(families)})_', name)
    dataset = name.rsplit('_', 1)[1]
    entry = {
        'Name': name,
        'In Collection': families[found[1]] if found else 'ResT',
        'Config': f'configs/{name}.py',
    }
    quoted = re.search(r": ([^:]+) \(authors' result", title_of(name))
    if quoted:
        metrics = {}
        for part in quoted[1].split(', '):
            value, metric = part.split(' ', 1)
            metric = 'box AP' if metric == 'AP' else metric
            metrics[f'{metric} (authors)'] = float(value)
        task = 'Semantic Segmentation' if dataset == 'ade20k' else 'Object Detection'
        entry['Results'] = [{'Task': task, 'Dataset': DATASETS[dataset], 'Metrics': metrics}]
    return entry


if __name__ == '__main__':
    main()
