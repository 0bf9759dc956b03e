from __future__ import annotations

import pytest

from mmrest.errors import ArgumentParser, did_you_mean


def test_names_that_are_spelled_alike() -> None:
    assert did_you_mean('rset', {'rest', 'pvt'}) == '; did you mean rest?'
    assert did_you_mean('rest', ['rest1', 'rest2', 'x'], most=2) == '; did you mean rest2 or rest1?'
    assert did_you_mean('Adamw', ['Adam', 'AdamW', 'RAdam'], most=2) == '; did you mean AdamW?'
    assert did_you_mean('yolo', ['rest', 'pvt']) == ''


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('--work-dri', '--work-dri; did you mean --work-dir?'),
        ('--yolo', 'arguments: --yolo\n'),
        ('extra', 'arguments: extra\n'),
    ],
)
def test_a_misspelt_option_is_named(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser()
    parser.add_argument('--work-dir')
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args([given])
    assert said in capsys.readouterr().err
