"""Pages about work directories that are written by hand, looked at in a browser if there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmrest.errors import InputError
from mmrest.report import read_run, write_page
from mmrest.report.charts import draw_chart
from mmrest.report.runs import differing, read_config
from mmrest.tools import report
from mmrest.tools.report import unique_names
from tests.shipped import NAMES, shipped

BROWSER = shutil.which('chromium') or shutil.which('google-chrome') or shutil.which('chrome')
VOID = {'meta', 'link', 'img', 'br', 'hr', 'input', 'path', 'use', 'rect'}


def training(folder: Path, name: str, steps: range, loss: float = 1.0, epochs: int = 0) -> Path:
    """What mmengine leaves of a training that began at a time."""
    log = folder / name / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    lines = [
        dict(lr=0.1, base_lr=0.1, loss=loss / step, loss_cls=loss / 2 / step, time=0.5, memory=900,
             epoch=1, iter=step, step=step)
        for step in steps
    ]  # fmt: skip
    for epoch in range(1, epochs + 1):
        lines.append({'coco/bbox_mAP': 0.1 * epoch, 'coco/bbox_mAP_l': -1.0, 'time': 0.2,
                      'data_time': 0.1, 'step': epoch})  # fmt: skip
    log.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A work directory with everything in it."""
    folder = tmp_path / 'run <a> & "b"'  # as ugly as a name can be
    training(folder, '20260101_000000', range(1, 5), epochs=3)
    (folder / '20260101_000000/run.json').write_text(
        json.dumps(dict(command='python train.py', config='mine.py', source="a = '<b>'"))
    )
    (folder / '20260101_000000/20260101_000000.log').write_text(
        f'x\n{"-" * 60}\nSystem environment:\n    PyTorch: 2.13.0\n{"-" * 60}\nlater'
    )
    (folder / '20260101_000000/vis_data/config.py').write_text(
        "model = dict(type='A', depth=[1, 2])\ntrain_cfg = dict()\n"
    )
    (folder / 'notes.py').write_text('raise SystemExit(3)')  # nothing is run
    (folder / 'other.csv').write_text('a,b\n1,2\n')
    test = folder / 'test/20260102_000000/20260102_000000.json'
    test.parent.mkdir(parents=True)
    test.write_text(json.dumps({'coco/bbox_mAP': 0.42, 'coco/bbox_mAP_s': -1.0, 'time': 1.0}))
    (folder / 'sweep').mkdir()
    (folder / 'sweep/resolutions.csv').write_text(
        'model,resolution,short side,aspect ratio,coco/bbox_mAP,metric,images/s,peak MB,retention\n'
        'mine,48,48,,0.2,coco/bbox_mAP,9,100,0.5\nmine,96,96,,0.4,coco/bbox_mAP,5,120,1.0\n'
    )
    (folder / 'sweep/resolutions.png').write_bytes(b'a chart of the sweep')
    (folder / 'bench.csv').write_text('model,mode,ms,peak MB\nResT,infer,12.5,300\n')
    picture = np.full((40, 1800, 3), 200, np.uint8)
    assert cv2.imwrite(str(folder / 'street.jpg'), picture)
    return folder


def page_of(*folders: Path) -> str:
    out = folders[0] / 'report.html'
    runs = [read_run(str(folder)) for folder in folders]
    for run, name in zip(runs, unique_names(list(map(str, folders))), strict=True):
        run.name = name
    write_page(runs, out)
    return out.read_text()


class Balanced(HTMLParser):
    """Counts what is open, and collects what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [values[key] for key in ('src', 'href') if values.get(key)]
        self.ids += [values['id']] if values.get('id') else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_a_page_shows_everything_that_is_there_and_fetches_nothing(folder: Path) -> None:
    page = page_of(folder)
    for shown in (
        '0.3 (0.3, epoch 3)', '0.42', 'aria-label="loss by iteration"',
        'aria-label="coco/bbox_mAP by epoch"', 'aria-label="coco/bbox_mAP by resolution (pixels)"',
        'sweep/resolutions.csv', '12.5', 'predictions for street.jpg', 'a = &#39;&lt;b&gt;&#39;',
        'python train.py', 'PyTorch: 2.13.0', 'depth=[', 'run &lt;a&gt; &amp;',
    ):  # fmt: skip
        assert shown in page, shown
    assert 'bbox_mAP_l' not in page.split('The whole config')[0]  # -1: no such objects
    assert 'bbox_mAP_s' not in page
    assert 'aria-label="base_lr' not in page
    assert '<script' not in page
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert all(url.startswith(('data:', '#')) for url in parser.fetched)
    assert len(re.findall(r'src="data:image/jpeg', page)) == 1  # not the chart of the sweep


def test_what_a_resumed_run_does_again_counts_once(tmp_path: Path) -> None:
    training(tmp_path, '20260101_000000', range(1, 9))
    log = training(tmp_path, '20260101_010000', range(5, 7), loss=8.0)
    log.write_text(log.read_text() + '{"loss": 1, "st')  # killed while it wrote
    run = read_run(str(tmp_path))
    assert [step for step, _ in run.training['loss']] == [1, 2, 3, 4, 5, 6]
    assert run.training['loss'][4:] == [(5, 8.0 / 5), (6, 8.0 / 6)]
    assert run.training['memory'] == [(step, 900) for step in range(1, 7)]


def test_runs_are_compared(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    training(other, '20260103_000000', range(1, 4), loss=2.0, epochs=2)
    (other / '20260103_000000/vis_data/config.py').write_text(
        "model = dict(type='B', depth=[1, 2])\ntrain_cfg = dict()\n"
    )
    page = page_of(folder, other)
    assert '<td>coco/bbox_mAP</td><td>0.3 (0.3, epoch 3)</td><td>0.2 (0.2, epoch 2)</td>' in page
    table = page.split('Differences between the configs')[1].split('</table>')[0]
    assert 'model.type' in table
    assert 'depth' not in table


def test_what_is_described_is_the_training_and_not_what_came_after(folder: Path) -> None:
    later = folder / '20260105_000000'
    later.mkdir()
    record = dict(command='python test.py', config='mine.py', source='a = 2')
    (later / 'run.json').write_text(json.dumps(record))
    assert read_run(str(folder)).command == 'python train.py'


def test_a_training_that_began_anew_is_alone(tmp_path: Path) -> None:
    training(tmp_path, '20260101_000000', range(1, 9), epochs=3)
    training(tmp_path, '20260101_010000', range(1, 3), loss=8.0)
    run = read_run(str(tmp_path))
    assert run.training['loss'] == [(1, 8.0), (2, 4.0)]
    assert not run.evaluation


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    log = training(tmp_path, '20260101_000000', range(1, 4))
    log.write_text(log.read_text() + '{"loss": NaN, "lr": 0.1, "step": 4}\n')
    assert 'loss is no number from iteration 4 on' in page_of(tmp_path)


DAMAGE = {
    'a number': b'3\nnull\n',
    'no text': b'\xff\xfe{"loss": 1\n',
    'a step in words': b'{"loss": 1, "step": "two"}\n{"loss": 1, "step": null}\n',
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damaged_lines_are_passed_over(kind: str, tmp_path: Path) -> None:
    log = training(tmp_path, '20260101_000000', range(1, 4))
    log.write_bytes(DAMAGE[kind] + log.read_bytes())
    assert len(read_run(str(tmp_path)).training['loss']) == 3


def test_damaged_files_are_named(folder: Path) -> None:
    (folder / '20260101_000000/run.json').write_text('{"command": ')
    (folder / '20260101_000000/vis_data/config.py').write_text('import os')
    (folder / 'long.csv').write_text(f'a\n{"x" * 200_000}\n')
    table = folder / 'sweep/resolutions.csv'
    table.write_text(table.read_text().replace('0.2,coco', 'failed,coco'))
    page = page_of(folder)
    for name in ('run.json is damaged', 'config.py is no config', 'long.csv is no table'):
        assert name in page


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        (
            "a = dict(b=[1, (2, -3.0)], c={'d': None})",
            {'a': {'b': [1, (2, -3.0)], 'c': {'d': None}}},
        ),
        ("a = dict({'.b.': 1}, c=2)", {'a': {'.b.': 1, 'c': 2}}),
        ("a = dict([('b', 1)], [2])", None),
        ("a = __import__('os')", None),
        ('a = open("x")', None),
        ('a.b = 1', None),
        ('for', None),
    ],
)
def test_a_config_is_read_as_data(text: str, value: dict | None) -> None:
    assert read_config(text) == value


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('_shapes')])
def test_a_shipped_config_is_read_as_mmengine_writes_it(name: str) -> None:
    cfg = shipped(name)
    assert read_config(cfg.pretty_text)['optim_wrapper'] == cfg.optim_wrapper.to_dict()


def test_names_tell_folders_apart() -> None:
    assert unique_names(['work_dirs/a', 'work_dirs/b']) == ['a', 'b']
    assert unique_names(['x/a', 'y/a']) == ['x/a', 'y/a']
    assert len(set(unique_names(['x/a', 'x/a']))) == 2


@pytest.mark.parametrize(
    ('made', 'message'),
    [(None, 'does not exist'), ('file', 'is a file'), ('empty', 'holds nothing')],
)
def test_what_is_no_work_directory_is_named(made: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / 'there'
    if made == 'file':
        path.write_text('')
    elif made:
        path.mkdir()
    with pytest.raises(InputError, match=message):
        read_run(str(path))


def test_a_long_curve_keeps_its_last_point() -> None:
    svg = draw_chart([('#0072b2', 'solid', [(i, i) for i in range(5001)])], 'x', 'y')
    assert len(svg) < 40_000
    assert 'currentColor' in svg
    assert '#010203' not in svg
    assert '5000' in svg


@pytest.mark.skipif(BROWSER is None, reason='no browser of the Chromium kind is installed')
@pytest.mark.parametrize('width', [360, 1280])
def test_a_browser_shows_it_without_errors_or_sideways_scrolling(
    folder: Path, width: int, tmp_path: Path
) -> None:
    page = page_of(folder)
    probe = tmp_path / 'probe.html'
    # the page has no script of its own: what it measures is added to a copy
    probe.write_text(
        page.replace('</body>', '<script>document.title = "wide " + document.body.scrollWidth + '
                     '" of " + innerWidth</script></body>')
    )  # fmt: skip
    result = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--window-size={width},900',
         '--enable-logging=stderr', f'--user-data-dir={tmp_path / "profile"}', '--dump-dom',
         f'file://{probe}'],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<title>wide (\d+) of (\d+)', result.stdout)
    assert found, result.stderr
    assert int(found[1]) <= int(found[2])
    assert 'CONSOLE' not in result.stderr


def test_a_picture_that_is_none_is_left_out(folder: Path, tmp_path: Path) -> None:
    whole = read_run(str(folder))
    write_page([whole], tmp_path / 'whole.html')
    count = (tmp_path / 'whole.html').read_text().count('data:image/jpeg')
    assert count
    broken = whole.pictures[0]
    broken.write_bytes(b'no picture')
    write_page([read_run(str(folder))], tmp_path / 'page.html')
    assert (tmp_path / 'page.html').read_text().count('data:image/jpeg') == count - 1


def test_a_metric_of_one_run_alone_is_a_dash_in_the_other(folder: Path, tmp_path: Path) -> None:
    training(tmp_path / 'other', '20260101_000000', range(1, 5))
    runs = [read_run(str(folder)), read_run(str(tmp_path / 'other'))]
    write_page(runs, tmp_path / 'page.html')
    text = re.sub(r'\s+', ' ', (tmp_path / 'page.html').read_text())
    (row,) = re.findall(r'<tr> ?<td>coco/bbox_mAP</td>.*?</tr>', text)
    assert re.findall(r'<td[^>]*>(.*?)</td>', row)[1:] == ['0.3 (0.3, epoch 3)', '-']


def test_a_folder_of_work_directories_names_those_with_a_log(tmp_path: Path) -> None:
    training(tmp_path / 'runs' / 'a', '20260101_000000', range(1, 3))
    (tmp_path / 'runs' / 'resolutions.csv').write_text('resolution,mAP\n96,0.5\n')
    with pytest.raises(InputError, match=r'a has a log of its own: name that'):
        read_run(str(tmp_path / 'runs'))


def test_a_folder_without_a_training_is_told_beside_its_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    training(folder.parent / 'runs' / 'a', '20260101_000000', range(1, 3))
    sweep = folder.parent / 'runs' / 'resolutions.csv'
    sweep.write_text((folder / 'sweep/resolutions.csv').read_text())
    monkeypatch.setattr(sys, 'argv', ['report', str(sweep.parent)])
    report.main()
    said = capsys.readouterr()
    assert said.out == f'{sweep.parent / "report.html"}\n'
    assert re.search(r'runs: no training; .*a has a log of its own: name that', said.err)


@pytest.mark.parametrize(
    ('names', 'said'),
    [
        (['a'], '--names has 1 names for 2 work directories'),
        (['a', 'a'], '--names: every run needs a name of its own'),
        (['a', ' '], '--names: every run needs a name of its own'),
    ],
)
def test_names_that_do_not_tell_runs_apart_are_refused(
    names: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(folder, folder.parent / 'other')
    monkeypatch.setattr(sys, 'argv', ['report', str(folder), str(other), '--names', *names])
    with pytest.raises(SystemExit, match=f'error: {said}'):
        report.main()
    assert not (folder / 'report.html').exists()


def test_what_differs_within_lists_is_named_by_its_place() -> None:
    steps = [[dict(type='Load'), dict(type='Resize', scale=scale)] for scale in (96, 64)]
    rows = differing([dict(pipeline=pipeline, lr=0.1) for pipeline in steps])
    assert rows == {'pipeline[1].scale': ['96', '64']}
