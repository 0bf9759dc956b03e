from __future__ import annotations

import pytest

from mmrest import progress


def test_the_time_left_is_that_of_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    seen = []
    for item in progress.with_time_left(range(4), 'images'):
        seen.append(item)
        now[0] += 10
    assert seen == [0, 1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        '1 of 4 images, about 30 s left',
        '2 of 4 images, about 20 s left',
        '3 of 4 images, about 10 s left',
    ]


def test_nothing_is_said_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.with_time_left([1, 2], 'images')) == [1, 2]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [(4.4, '4 s'), (89, '89 s'), (95, '2 min'), (7800, '2 h 10 min'), (86400, '24 h')],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert progress.describe_seconds(seconds) == text
