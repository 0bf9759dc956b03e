"""The benchmarks' document is what its script makes of the files that were measured."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_benchmarks_are_written_from_their_files(tmp_path: Path) -> None:
    out = tmp_path / 'benchmarks.md'
    subprocess.run(
        [sys.executable, 'docs/scripts/write_benchmarks.py', '--out', str(out)],
        cwd=ROOT,
        check=True,
    )
    assert out.read_text() == (ROOT / 'docs/benchmarks.md').read_text()


def test_memory_grows_no_faster_than_the_pixels() -> None:
    for name in ('growth_infer', 'growth_train', 'growth_resformer'):
        with open(ROOT / f'docs/benchmarks/{name}.csv', newline='') as file:
            rows = list(csv.DictReader(file))
        per_pixel = []
        for row in rows:
            height, width = map(int, row['shape'].split('x'))
            per_pixel.append(float(row['work MB']) / (height * width))
        # a map of queries times keys would grow with the pixels' square
        assert len(per_pixel) >= 3
        assert max(per_pixel) < 1.1 * per_pixel[0], name
