"""Figures in the documents are those of the files they were measured into."""

from __future__ import annotations

import csv

from tests.conftest import ROOT


def test_the_memory_table_is_that_of_its_file() -> None:
    text = (ROOT / 'docs/benchmarks.md').read_text()
    with open(ROOT / 'docs/benchmarks/resformer_base_memory.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    per_megapixel = []
    for row in rows:
        height, width = map(int, row['shape'].split('x'))
        pixels = height * width / 1e6
        work = float(row['work MB'])
        cells = (row['shape'], f'{pixels:.2f}', row['peak MB'], row['work MB'])
        assert f'| {" | ".join(cells)} | {work / pixels:.0f} |' in text
        per_megapixel.append(work / pixels)
    # linear in the pixels: a map of queries times keys would grow ninefold over these
    assert max(per_megapixel) < 1.2 * min(per_megapixel)
