"""Do the class names of a config and of its annotations agree?

mmdet takes names that differ without a word: classes in another order give right labels with wrong
names, a misspelt class loses its objects and shifts the labels behind it, and a data set none of
whose classes are in the annotations trains on nothing.
"""

from __future__ import annotations

import difflib
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrest.commands.dataset_sample import MOST_IMAGES, DatasetSample
from mmrest.errors import list_some

_ALIKE = 0.75  # as a misspelt name is, and 'bus' is not to 'minibus'


def string_for_classes(node: Mapping[str, Any]) -> str | None:
    """What is wrong if a data set's classes are written as a string, which is no file of names."""
    classes = (node.get('metainfo') or {}).get('classes')
    if not isinstance(classes, str) or os.path.isfile(classes):
        return None
    return (
        f'its classes are the string {classes!r}, whose letters would be the classes; write '
        f'metainfo=dict(classes=({classes!r},))'
    )


def compare_with_annotations(sample: DatasetSample) -> tuple[str | None, str | None]:
    """What is wrong with a data set's classes, and what may be.

    Args:
        sample: Of the data set; its own class has assigned labels to the categories.

    Returns:
        An error and a warning, each None if there is none.
    """
    reader = sample.reader
    if reader is None:
        return None, None
    classes = [str(name) for name in reader.metainfo.get('classes') or ()]
    if not classes:
        return None, None
    if sample.categories and getattr(reader, 'cat_ids', None) is not None:
        return _compare_categories(classes, sample.categories, reader.cat_ids)
    names = {name for info in sample.infos for name in _names_in_xml(info.get('xml_path'))}
    whole = len(sample.infos) < MOST_IMAGES
    return _compare_names(classes, sorted(names), whole) if names else (None, None)


def _compare_categories(
    classes: Sequence[str], categories: Sequence[Mapping[str, Any]], cat_ids: Sequence[int]
) -> tuple[str | None, str | None]:
    names = {category.get('id'): str(category.get('name')) for category in categories}
    labelled = [names.get(number) for number in cat_ids]
    both = _show('classes of the config', classes) + _show('categories', list(names.values()))
    write = f'write metainfo=dict(classes={tuple(names.values())!r})'
    if not labelled:
        return f'none of its classes is in the annotations\n{both}    {write}', None
    wrong = [
        f'objects of {label!r} would be called {name!r}'
        for label, name in zip(labelled, classes, strict=False)
        if label != name
    ]
    missing = [name for name in classes if name not in labelled]
    if wrong and not missing:
        kept = [name for name in names.values() if name in classes]
        write = f'write the same order: metainfo=dict(classes={tuple(kept)!r})'
    unused = [name for name in names.values() if name not in labelled]
    closest = {
        name: difflib.get_close_matches(name, unused, n=1, cutoff=_ALIKE) for name in missing
    }
    hints = [f'did you mean {close[0]!r}?' for close in closest.values() if close]
    if wrong:
        lost = f'{list_some(missing)} is not in the annotations; ' if missing else ''
        hint = f'{list_some(hints)} As it is, ' if hints else ''
        return f'{lost}{hint}{list_some(wrong, most=3)}\n{both}    {write}', None
    for name, close in closest.items():
        if close:
            return f'{name!r} is not in the annotations; did you mean {close[0]!r}?\n{both}', None
    if missing:
        return None, f'the annotations have no {list_some(missing)}\n{both}'
    if unused:
        return None, f'objects of {list_some(unused)} are left out\n{both}'
    return None, None


def _compare_names(
    classes: Sequence[str], names: Sequence[str], whole: bool
) -> tuple[str | None, str | None]:
    """As :func:`_compare_categories`, for annotations that name each object's class.

    Of more files than were read, others may have the classes.
    """
    unknown = [name for name in names if name not in classes]
    both = _show('classes of the config', classes) + _show('names in the first files', names)
    if len(unknown) == len(names):
        write = f'write metainfo=dict(classes={tuple(names)!r})'
        if not whole:
            return None, f'none of its classes is in the first files\n{both}    perhaps {write}'
        return f'none of its classes is in the annotations\n{both}    {write}', None
    if unknown:
        return None, f'objects of {list_some(unknown)} are left out\n{both}'
    return None, None


def _show(title: str, names: Sequence[str]) -> str:
    return f'    {title} ({len(names)}): {list_some(names, most=20)}\n'


def _names_in_xml(path: str | None) -> Iterator[str]:
    if path is None or not os.path.isfile(path):
        return
    # expat bounds what entities may grow to, and these are the user's own files
    for name in ElementTree.parse(path).getroot().iterfind('object/name'):  # nosec B314
        yield (name.text or '').strip()
