"""The report of a sweep from measurements that are made up: table, files, picture."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

from mmrest.multires.report import Report, draw
from mmrest.multires.sweep import OUT_OF_MEMORY, Measurement, Resolution

MACHINE = {'device': 'a processor', 'date': '2026-01-02'}


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """What a report looks at, and a checkpoint."""
    (tmp_path / 'model.pth').write_bytes(b'weights' * 200_000)  # more than is read at once
    (tmp_path / 'retinanet_small.py').touch()
    cfg = Config(
        dict(
            model=dict(type='RetinaNet', test_cfg=dict(score_thr=0.05)),
            test_evaluator=dict(type='CocoMetric'),
            test_cfg=dict(type='TestLoop'),
            test_dataloader=dict(batch_size=1, dataset=dict(type='Shapes', length=8)),
        ),
        filename=str(tmp_path / 'retinanet_small.py'),
    )
    cfg.load_from = str(tmp_path / 'model.pth')
    return cfg


def measured(side: int, value: float, ratio: float | None = None, **fields: Any) -> Measurement:
    metrics = {'coco/bbox_mAP': value, 'coco/bbox_mAP_s': value / 2}
    fields = dict(images_per_second=12.344, peak_bytes=1_234_600_000, environment=MACHINE) | fields
    return Measurement(Resolution(side, ratio), metrics, **fields)


def fill(folder: Path, cfg: Config, values: dict[int, float], training: int = 96) -> Report:
    report = Report(str(folder), cfg, cfg.load_from, training)
    for side, value in values.items():
        report.add(measured(side, value))
    return report


def test_the_table(cfg: Config, tmp_path: Path) -> None:
    report = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    assert report.header() == (
        'resolution  coco/bbox_mAP  coco/bbox_mAP_s  images/s  peak MB  retention'
    )
    assert report.line(report.measurements[1]) == (
        '        48           0.25            0.125      12.3     1235      0.500'
    )
    no_small_objects = Measurement(
        Resolution(96, 2.0), {'coco/bbox_mAP': 0.125, 'coco/bbox_mAP_s': -1.0}
    )
    assert report.line(no_small_objects) == (
        '    192x96          0.125                -         0        0      0.250'
    )
    failed = Measurement(Resolution(32), error=OUT_OF_MEMORY)
    assert report.line(failed) == f'        32  {OUT_OF_MEMORY}'
    assert report.retention(failed) is None


def test_a_table_before_there_is_a_result(cfg: Config, tmp_path: Path) -> None:
    report = Report(str(tmp_path / 'a'), cfg, cfg.load_from, 96)
    report.add(Measurement(Resolution(96), error='why'))
    assert report.header().split() == [
        'resolution',
        'metric',
        'images/s',
        'peak',
        'MB',
        'retention',
    ]
    report.add(measured(48, 0.25))  # not that of training: there is nothing to relate it to
    assert report.header().split()[1:3] == ['coco/bbox_mAP', 'coco/bbox_mAP_s']
    assert report.line(report.measurements[1]).split()[1:] == ['0.25', '0.125', '12.3', '1235']


def test_the_summary(cfg: Config, tmp_path: Path) -> None:
    report = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    area = 'area under coco/bbox_mAP over log(resolution) from 48 to 96, relative to 96: 0.750'
    assert report.summary() == area
    report.add(Measurement(Resolution(24), error='why'))
    report.add(Measurement(Resolution(96, 2.0), error='why'))
    report.add(measured(96, 0.1, ratio=0.5))  # in no area
    assert report.summary() == f'{area}; without 24, 192x96'
    one = fill(tmp_path / 'b', cfg, {96: 0.5})
    assert one.summary() == 'no area under coco/bbox_mAP: it takes two resolutions'
    zero = fill(tmp_path / 'c', cfg, {96: 0.0, 48: 0.1})
    zero.add(Measurement(Resolution(24), error='why'))
    assert zero.summary() == 'no area under coco/bbox_mAP: at 96 it is 0; without 24'


def test_no_prediction_at_all_is_a_result_of_zero(cfg: Config, tmp_path: Path) -> None:
    report = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    report.add(Measurement(Resolution(24), {}, 10.0, 10**9))
    assert report.values == {96: 0.5, 48: 0.25, 24: 0.0}
    assert report.line(report.measurements[-1]).split()[:3] == ['24', '0', '0']
    with open(tmp_path / 'a/resolutions.csv') as file:
        assert [row['coco/bbox_mAP'] for row in csv.DictReader(file)] == ['', '0.25', '0.5']
    empty = Report(str(tmp_path / 'b'), cfg, cfg.load_from, 96)
    empty.add(Measurement(Resolution(96), {}, 10.0, 10**9))
    empty.add(Measurement(Resolution(48), {}, 10.0, 10**9))
    assert 'at 96 it is 0' in empty.summary()


def test_the_files(cfg: Config, tmp_path: Path) -> None:
    report = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    report.add(measured(96, 0.2, ratio=0.5))
    report.add(Measurement(Resolution(192), error='why, "really"'))
    with open(tmp_path / 'a/resolutions.csv', newline='') as file:
        content = file.read()
    rows = list(csv.DictReader(content.splitlines()))
    assert '\r\r' not in content
    assert rows[0] == {
        'model': 'retinanet_small',
        'resolution': '48',
        'short side': '48',
        'aspect ratio': '',
        'coco/bbox_mAP': '0.25',
        'coco/bbox_mAP_s': '0.125',
        'metric': 'coco/bbox_mAP',
        'images/s': '12.34',
        'peak MB': '1235',
        'retention': '0.5000',
        'training resolution': '96',
        'error': '',
        'checkpoint': str(tmp_path / 'model.pth'),
        **MACHINE,
    }
    assert [row['resolution'] for row in rows] == ['48', '96', '192', '96x192']
    assert rows[3]['aspect ratio'] == '0.5'
    assert (rows[2]['error'], rows[2]['retention']) == ('why, "really"', '')
    state = json.loads((tmp_path / 'a/resolutions.json').read_text())
    digest = hashlib.sha256((tmp_path / 'model.pth').read_bytes()).hexdigest()
    assert state['subject']['checkpoint'] == digest[:16]
    assert state['subject']['training_resolution'] == 96
    assert (state['model'], state['metric'], state['area']) == (
        'retinanet_small',
        'coco/bbox_mAP',
        pytest.approx(0.75),
    )
    with Image.open(tmp_path / 'a/resolutions.png') as picture:
        assert min(picture.size) > 300
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == [
        f'resolutions.{ending}' for ending in ('csv', 'json', 'png')
    ]


def test_a_sweep_is_gone_on_with(cfg: Config, tmp_path: Path) -> None:
    cfg.model = dict(type='RetinaNet', depth=3, act=Path)  # pure Python configs name classes
    report = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    cfg.test_dataloader.batch_size = 4  # on which no result depends
    cfg.model = dict(reversed(cfg.model.items()))
    again = Report(str(tmp_path / 'a'), cfg, cfg.load_from, 96)
    assert again.measurements == sorted(report.measurements, key=lambda m: m.resolution.short_side)
    again.add(measured(48, 0.4))
    assert again.values == {96: 0.5, 48: 0.4}


@pytest.mark.parametrize(
    ('change', 'of_what'),
    [
        (dict(model=dict(test_cfg=dict(score_thr=0.1))), 'config'),
        (dict(test_evaluator=dict(metric='segm')), 'config'),
        (dict(test_cfg=dict(fp16=True)), 'config'),
        (dict(test_dataloader=dict(dataset=dict(length=9))), 'config'),
        (dict(load_from='other.pth'), 'checkpoint'),
        (dict(load_from='other.pth', test_cfg=dict(fp16=True)), 'config and checkpoint'),
    ],
)
def test_the_sweep_of_something_else_is_left_alone(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, of_what: str
) -> None:
    fill(tmp_path / 'a', cfg, {96: 0.5})
    before = (tmp_path / 'a/resolutions.json').read_text()
    monkeypatch.chdir(tmp_path)
    Path('other.pth').write_bytes(b'weights' * 199_999 + b'another')  # differs at its end
    cfg.merge_from_dict(change)
    options = r' \(--cfg-options are a part of it\)' if 'config' in of_what else ''
    said = rf'resolutions\.json is the sweep of another {of_what}{options};'
    with pytest.raises(ValueError, match=said):
        Report('a', cfg, cfg.load_from, 96)
    assert (tmp_path / 'a/resolutions.json').read_text() == before


def test_a_training_resolution_or_a_damaged_file_is_named(cfg: Config, tmp_path: Path) -> None:
    fill(tmp_path / 'a', cfg, {96: 0.5})
    with pytest.raises(ValueError, match='sweep of another training resolution; name another'):
        Report(str(tmp_path / 'a'), cfg, cfg.load_from, 64)
    for damage in ('{', '{}', '{"measurements": [{"resolution": {}}]}', '{"measurements": []}'):
        (tmp_path / 'a/resolutions.json').write_text(damage)
        with pytest.raises(ValueError, match=r'resolutions\.json cannot be read .*move it away'):
            Report(str(tmp_path / 'a'), cfg, cfg.load_from, 96)


def test_a_checkpoint_elsewhere_goes_by_its_name(cfg: Config, tmp_path: Path) -> None:
    report = Report(str(tmp_path / 'a'), cfg, 'mmrest://rest_small', 96)
    assert report.subject['checkpoint'] == 'mmrest://rest_small'


def test_the_wanted_metric_is_compared(cfg: Config, tmp_path: Path) -> None:
    report = Report(str(tmp_path / 'a'), cfg, cfg.load_from, 96, 'coco/bbox_mAP_s')
    report.add(measured(96, 0.5))
    assert report.values == {96: 0.25}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    return figures


def test_models_are_compared_in_one_picture(
    cfg: Config, tmp_path: Path, drawn: list[Figure]
) -> None:
    small = fill(tmp_path / 'a', cfg, {96: 0.5, 48: 0.25})
    small.add(measured(96, 0.1, ratio=2.0))
    small.add(Measurement(Resolution(24), error='why'))
    fill(tmp_path / 'b', cfg, {64: 0.3, 128: 0.4}, training=64)
    other = fill(tmp_path / 'c', cfg, {96: 0.6})
    other.model = 'another'
    other.add(Measurement(Resolution(200), {}, 3.0))  # nothing found
    drawn.clear()
    draw([tmp_path / name / 'resolutions.csv' for name in 'abc'], tmp_path / 'three.svg')
    assert (tmp_path / 'three.svg').read_text().startswith('<?xml')
    ((accuracy, speed),) = (figure.axes for figure in drawn)
    lines = [line for line in accuracy.lines if len(line.get_xdata()) > 1 and line.get_ls() == '-']
    assert [line.get_label() for line in lines] == [
        'retinanet_small (a)',
        'retinanet_small (b)',
        'another',
    ]
    assert [text.get_text() for text in accuracy.get_legend().texts] == [
        line.get_label() for line in lines
    ]
    points = [np.stack(line.get_data(), 1).tolist() for line in lines]
    assert points == [
        [[48, 0.25], [96, 0.5]],
        [[64, 0.3], [128, 0.4]],
        [[96, 0.6], [200, 0]],
    ]
    training = [line for line in accuracy.lines if line.get_ls() == ':']
    assert [line.get_xdata()[0] for line in training] == [96, 64, 96]
    assert [line.get_color() for line in training] == [line.get_color() for line in lines]
    assert [line.get_ydata().tolist() for line in speed.lines] == [[12.34] * 2] * 2 + [[12.34, 3]]
    assert [line.get_xdata().tolist() for line in speed.lines] == [[48, 96], [64, 128], [96, 200]]
    for axes, name in ((accuracy, 'coco/bbox_mAP'), (speed, 'images/s')):
        assert (axes.get_xscale(), axes.get_ylabel()) == ('log', name)
        assert axes.get_xlabel() == 'short side of the test images'
        assert axes.get_xticks().tolist() == [48, 64, 96, 128, 200]
        assert [t.get_text() for t in axes.get_xticklabels()] == ['48', '64', '96', '128', '200']
        assert not axes.get_xticks(minor=True).size
    assert (accuracy.get_yscale(), speed.get_yscale()) == ('linear', 'log')


def test_what_cannot_be_compared_is_named(cfg: Config, tmp_path: Path) -> None:
    files = [tmp_path / name / 'resolutions.csv' for name in 'ab']
    for file in files:
        fill(file.parent, cfg, {96: 0.5, 48: 0.25})
    with pytest.raises(ValueError, match='cannot be read'):
        draw([tmp_path / 'none.csv'], tmp_path / 'x.png')
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='no column'):
        draw([tmp_path / 'other.csv'], tmp_path / 'x.png')
    content = files[1].read_text()
    (tmp_path / 'other.csv').write_text(content.splitlines()[0])
    with pytest.raises(ValueError, match=r'other\.csv holds no measurement'):
        draw([tmp_path / 'other.csv'], tmp_path / 'x.png')
    (tmp_path / 'other.csv').write_bytes(b'\xff\xfe')
    with pytest.raises(ValueError, match=r'other\.csv is no resolutions\.csv'):
        draw([tmp_path / 'other.csv'], tmp_path / 'x.png')
    with pytest.raises(ValueError, match='cannot be written'):
        draw(files, tmp_path / 'none/x.png')
    files[1].write_text(content.replace('coco/bbox_mAP,', 'mIoU,'))
    with pytest.raises(ValueError, match='different metrics: coco/bbox_mAP, mIoU'):
        draw(files, tmp_path / 'x.png')


def test_a_picture_without_an_ending_is_a_png(cfg: Config, tmp_path: Path) -> None:
    fill(tmp_path / 'a', cfg, {96: 0.5})
    draw([tmp_path / 'a/resolutions.csv'], tmp_path / 'picture')
    with Image.open(tmp_path / 'picture') as picture:
        assert picture.format == 'PNG'
