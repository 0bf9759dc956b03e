"""The first objects of a list in a JSON file, as ``json.load`` would give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmrest.commands.json_parts import is_list, is_whole_json, read_first

LONG = {'name': 'ü' * 100_000, 'id': 2}  # more than is decoded at first, in the middle of a letter


@pytest.mark.parametrize('indent', [None, 2])
@pytest.mark.parametrize('items', [[{'id': 1}, LONG, {'id': 3}], [{'id': 1}], []], ids=len)
def test_the_first_objects_are_those_of_the_whole_file(
    items: list[dict[str, Any]], indent: int | None, tmp_path: Path
) -> None:
    file = tmp_path / 'data.json'
    # the key stands within other values, too, before its own list
    content = {'info': {'images': [1, 2]}, 'images': items, 'more': []}
    file.write_text(json.dumps(content, indent=indent, ensure_ascii=False))
    for most in (1, 2, 9):
        assert read_first(file, 'images', most) == items[:most]
    assert read_first(file, 'annotations', 1) is None
    assert is_whole_json(file)
    assert not is_list(file)


@pytest.mark.parametrize('text', ['', '{}', '{"images": [{"id": 1', '{"images": [3]}', '[1]'])
def test_where_there_is_no_such_list_there_is_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / 'data.json'
    file.write_text(text)
    assert read_first(file, 'images', 2) is None
    assert is_whole_json(file) == (text[-1:] != '1')
    assert is_list(file) == (text == '[1]')


def test_lists_of_the_outermost_object_come_first(tmp_path: Path) -> None:
    """Some tools write such lists into the entries of images, and into the information."""
    file = tmp_path / 'a.json'
    content = dict(
        info=dict(images=[dict(logo='a.png')]),
        images=[dict(id=1, file_name='{[[.jpg}]]', annotations=[], categories=[dict(id=9)])],
        annotations=[dict(id=5)],
        categories=[dict(id=3)],
    )
    file.write_text(json.dumps(content))
    for key in ('images', 'annotations', 'categories'):
        assert read_first(file, key, 10) == content[key]
    file.write_text(json.dumps([content]))  # not outermost, and the only ones
    assert read_first(file, 'categories', 10) == [dict(id=9)]
