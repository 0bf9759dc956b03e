"""What the pages tell people to type is what the tools take, and the first hour works."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS

import mmrest
from mmrest.commands.cli import require_run
from mmrest.commands.config import load_config
from tests import forked
from tests.conftest import ROOT

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
# what stands for something of the reader's
PLACEHOLDERS = {'CONFIG', 'CHECKPOINT', '...'}
# of other people
FOREIGN = {'pip', 'source', 'git', 'cd', 'pre-commit'}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.S | re.M)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page."""
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            if words := shlex.split(line, comments=True):
                while re.fullmatch(r'[A-Z_]+=.*', words[0]):
                    words = words[1:]
                yield words


COMMANDS = [
    pytest.param(words, id=f'{page.stem}: {" ".join(words)[:70]}')
    for page in PAGES
    for words in commands(page)
]


class _ParsedError(Exception):
    """Carries what a tool's parser made of a command."""

    def __init__(self, parsed: argparse.Namespace) -> None:
        super().__init__()
        self.parsed = parsed


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Give a command to the very parser of its tool, and stop there."""
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> None:
        raise _ParsedError(original(parser, *given))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    if words[:2] == ['-m', 'mmrest']:
        module, arguments = f'mmrest.tools.{words[2]}', words[3:]
    elif words[0] == '-m':
        module, arguments = words[1], words[2:]
    else:
        assert (ROOT / words[0]).is_file(), words[0]
        module, arguments = None, words[1:]
    monkeypatch.setattr(sys, 'argv', [words[0], *arguments])
    monkeypatch.syspath_prepend(str((ROOT / words[0]).parent))
    with pytest.raises(_ParsedError) as caught:
        _run(module, words[0])
    return caught.value.parsed


def _run(module: str | None, script: str) -> None:
    if module:
        importlib.import_module(module).main()
    else:
        runpy.run_path(str(ROOT / script), run_name='__main__')


@pytest.mark.parametrize('words', COMMANDS)
def test_the_tool_takes_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    if program in FOREIGN:
        return
    if program == 'make':
        targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
        assert {word for word in rest if '=' not in word} <= set(targets)
        return
    if program in ('torchrun', 'srun'):
        # what comes before is torch's or the cluster's
        at = next(i for i, w in enumerate(rest) if w.startswith('tools/') or w == '-m')
        rest = rest[at:]
    else:
        assert program.endswith('python'), program
        rest = rest[1:] if rest[0] == '-u' else rest
    args = parse(rest, monkeypatch)
    named = [getattr(args, 'config', None), *(getattr(args, 'configs', None) or ())]
    for config in named:
        if config and config not in PLACEHOLDERS and not config.startswith('mine'):
            assert (ROOT / config).is_file() or config in mmrest.config_names(), config


PYTHON = [
    pytest.param(code, id=f'{page.stem} {number}')
    for page in PAGES
    if page.stem != 'adding-a-backbone'  # which has a test of its own
    for number, code in enumerate(blocks(page, 'python'))
]


@pytest.mark.parametrize('code', PYTHON)
def test_the_code_is_python_and_a_config_is_one(code: str, tmp_path: Path) -> None:
    ast.parse(code)
    if not code.startswith('_base_'):
        return
    cfg = load_config(str(saved(code, tmp_path)))
    for part in ('train', 'test'):
        if cfg.get('model') and cfg.get(f'{part}_cfg'):
            require_run(cfg, part)


def saved(code: str, folder: Path) -> Path:
    """A config of a page as a file."""
    file = folder / 'mine.py'
    file.write_text(code.replace("'./", f"'{ROOT / 'configs'}/"))
    return file


def is_config(code: str) -> bool:
    return code.startswith('_base_') and 'model' in code


@pytest.mark.parametrize('code', [block for block in PYTHON if is_config(block.values[0])])
def test_anchors_of_a_config_have_the_strides_of_its_maps(code: str, tmp_path: Path) -> None:
    cfg = load_config(str(saved(code, tmp_path)))
    model = cfg.model.get('model', cfg.model)
    head = model.get('rpn_head') or model.get('bbox_head')
    if not head or 'anchor_generator' not in head:
        return
    with torch.device('meta'):
        backbone = MODELS.build(dict(model.backbone, init_cfg=None))
    first = model.neck.get('start_level', 0)
    assert backbone.out_channels == tuple(model.neck.in_channels)
    assert head.anchor_generator.strides[0] == backbone.out_strides[first]


@pytest.mark.slow
@pytest.mark.parametrize('code', [block for block in PYTHON if is_config(block.values[0])])
def test_the_model_of_a_config_takes_a_step(code: str, tmp_path: Path) -> None:
    from mmrest.benchmark.models import build_step
    from mmrest.engine.image_channels import image_channels

    # the weights that it names are not here, and another test's matter
    code = re.sub(r"init_cfg=dict\(type='Pretrained'[^)]*\)", 'init_cfg=None', code)
    model, step = build_step(str(saved(code, tmp_path)), (96, 128), 'train', 2)
    step(model.train(), torch.randn(2, image_channels(model), 96, 128))


def test_a_backbone_in_python_is_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (b for b in blocks(ROOT / 'docs/backbones.md', 'python') if b.startswith('import'))
    exec(code, {})
    assert capsys.readouterr().out.strip() == (
        '[(1, 128, 54, 81), (1, 256, 27, 41), (1, 512, 14, 21)] (8, 16, 32)'
    )


@pytest.mark.slow
def test_the_commands_of_the_first_hour_run(shapes_root: Path, tmp_path: Path) -> None:
    """Getting started, and what follows on its work directory, in an empty folder."""
    page = ROOT / 'docs/getting-started.md'
    shutil.copytree(shapes_root, tmp_path / 'data/shapes')
    record = tmp_path / 'data/shapes/shapes.json'  # as if it were the whole data set
    record.write_text(json.dumps(json.loads(record.read_text()) | dict(num_train=800, num_val=80)))
    (code,) = (block for block in blocks(page, 'python') if block.startswith('_base_'))
    (tmp_path / 'mine.py').write_text(code)
    environment = {
        **os.environ,
        'CUDA_VISIBLE_DEVICES': '',
        'MMREST_WEIGHTS': str(tmp_path / 'weights'),
        'PYTHONPATH': str(ROOT),
    }
    follow = [ROOT / f'docs/{name}.md' for name in ('reports', 'weights', 'faq')]
    ran = []
    for words in [w for each in (page, *follow) for w in commands(each)]:
        if words[:3] != ['python', '-m', 'mmrest'] or '--download' in words:
            continue
        given = ['--force'] if words[3] == 'report' and 'report' in ran else []
        result = forked.run_script(
            [str(ROOT / 'mmrest/__main__.py'), *words[3:], *given], tmp_path, environment, 300
        )
        assert result.returncode == 0 or words[3] == 'doctor', f'{words}\n{result.stderr}'
        assert 'Traceback' not in result.stderr
        ran.append(words[3])
    assert {'train', 'test', 'predict', 'report', 'list', 'info', 'weights', 'convert'} <= set(ran)
    assert (tmp_path / 'work_dirs/mine/report.html').stat().st_size > 10_000
    assert (tmp_path / 'compared.html').is_file()
    assert (tmp_path / 'mine.safetensors').is_file()
    assert len(list((tmp_path / 'work_dirs/mine/predictions').iterdir())) == 4


def test_every_page_is_in_the_site_and_every_part_has_a_page() -> None:
    """``make docs`` finds broken links; this finds pages that nothing leads to."""
    index = (ROOT / 'docs/index.md').read_text()
    for page in (ROOT / 'docs').glob('*.md'):
        assert page.stem == 'index' or re.search(rf'^{page.stem}$', index, re.M), page.stem


def test_links_of_the_readme_lead_somewhere() -> None:
    """They are not in the site, which checks its own."""
    for page in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md'):
        for target in re.findall(r'\]\(([^)#]+)', page.read_text()):
            assert target.startswith('http') or (ROOT / target).exists(), target


def test_a_command_that_a_tool_does_not_take_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse(['-m', 'mmrest', 'train', 'CONFIG', '--no-such-option'], monkeypatch)
