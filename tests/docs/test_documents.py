"""The benchmarks' document is what its script makes of the files that were measured."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import yaml

import mmrest
from mmrest.backbones import BACKBONES
from tests.conftest import ROOT
from tests.published_results import PAPER


def written_by(script: str, tmp_path: Path) -> str:
    """What a script of docs/scripts makes of the files that are there."""
    out = tmp_path / 'page.md'
    command = [sys.executable, f'docs/scripts/{script}', '--out', str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out.read_text()


def test_the_benchmarks_are_written_from_their_files(tmp_path: Path) -> None:
    text = written_by('write_benchmarks.py', tmp_path)
    assert text == (ROOT / 'docs/benchmarks.md').read_text()


def test_the_reliability_page_is_written_from_its_files(tmp_path: Path) -> None:
    text = written_by('write_reliability.py', tmp_path)
    assert text == (ROOT / 'docs/reliability.md').read_text()
    for family in BACKBONES:
        assert f'| {family} |' in text
    for fault in ('CMYK', 'EXIF', 'full disk', 'killed', 'without area'):
        assert fault in text


def test_the_models_are_written_from_their_files_and_configs(tmp_path: Path) -> None:
    rows = written_by('write_models.py', tmp_path)
    assert rows == (ROOT / 'docs/models.md').read_text()
    for family in BACKBONES.values():
        for name in family.variants:
            assert f'| {family.__name__} {name} | ' in rows


def test_every_table_says_what_it_was_measured_of() -> None:
    files = list((ROOT / 'docs/benchmarks').glob('*.csv'))
    assert files
    for path in files:
        with open(path, newline='') as file:
            for row in csv.DictReader(file):
                assert re.fullmatch(r'[0-9a-f]{7,40}', row['commit']), path.name
                assert row['torch'], path.name
                assert row['device'], path.name
                if 'ms range' in row:
                    assert int(row['steps']) >= 5, path.name


def test_the_model_index_is_written_from_the_configs(tmp_path: Path) -> None:
    script = 'docs/scripts/write_model_index.py'
    subprocess.run([sys.executable, script, '--out-dir', str(tmp_path)], cwd=ROOT, check=True)
    for name, folder in (('model-index.yml', 'mmrest/.mim'), ('metafile.yml', 'configs')):
        assert (tmp_path / name).read_text() == (ROOT / folder / name).read_text()
    models = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text())['Models']
    assert [entry['Name'] for entry in models] == mmrest.config_names()
    quoted = {entry['Name'] for entry in models if 'Results' in entry}
    assert quoted == set(PAPER)


def test_checkpoints_of_shipped_configs_have_the_names_that_a_run_gives_them() -> None:
    found = 0
    for page in [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *ROOT.rglob('docs/*/*.ipynb')]:
        for name, kind, number in re.findall(
            r'work_dirs/(\w+)/(epoch|iter)_(\d+)', page.read_text()
        ):
            if name not in mmrest.config_names():
                continue  # a user's
            cfg, found = mmrest.get_config(name).train_cfg, found + 1
            expected = cfg.get('max_epochs') if kind == 'epoch' else cfg.get('max_iters')
            assert int(number) == expected, f'{page}: {name}'
    assert found > 3
