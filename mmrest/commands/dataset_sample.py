"""A data set's first images, read by its own class from a short copy of its annotations.

How a data set reads its files is known to its class alone. So the class is asked: it is built
without loading anything, and then reads a copy of its annotation file that holds a few images. What
this finds is what training finds, and it takes no longer for COCO than for ten images.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from mmrest.commands.json_parts import is_list, read_first
from mmrest.engine.config_errors import explain_config_errors

MOST_IMAGES = 50
MOST_OBJECTS = 5000


@dataclass
class DatasetSample:
    """What a data set's class says of its files.

    Attributes:
        dataset: The data set, not loaded; its paths are joined. None if it could not be built.
        infos: The first images, as the class describes them; None if it could not be asked.
        missing: A file without which the class cannot read them.
        categories: Those of COCO-like annotations, as they stand in the file.
        images: The first images of COCO-like annotations, as they stand in the file.
        objects: The first boxes of COCO-like annotations, of any image.
        strays: Those of them that are of no image of the file, once they have been told apart.
        is_list: The annotation file is a JSON list.
        reader: The data set that read the sample.
    """

    dataset: BaseDataset | None
    infos: list[dict[str, Any]] | None = None
    missing: str | None = None
    categories: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] | None = None
    objects: list[dict[str, Any]] | None = None
    strays: list[dict[str, Any]] = field(default_factory=list)
    is_list: bool = False
    reader: BaseDataset | None = None


def sample_dataset(node: Mapping[str, Any]) -> DatasetSample | None:
    """Ask a config's data set for its first images.

    Args:
        node: The config of a data set, with mmengine's default scope set.

    Returns:
        None if the data set is no ``BaseDataset``, or reads through another backend than the disk.

    Raises:
        InputError: Its class has no such argument.
    """
    if not is_base_dataset(node) or not _is_on_disk(node):
        return None
    with explain_config_errors(), _quietly():
        try:
            dataset = DATASETS.build({**node, 'pipeline': [], 'lazy_init': True})
        except Exception as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown and unknown[1] in node:  # a file would be missed that it names
                raise
            return DatasetSample(None)  # whatever else is wrong, building it for real says so
    sample = DatasetSample(dataset)
    ann_file = getattr(dataset, 'ann_file', None)
    if ann_file and not (isinstance(ann_file, str) and os.path.exists(ann_file)):
        return sample
    if ann_file and ann_file.endswith('.json'):
        sample.categories = read_first(ann_file, 'categories', 2**20) or []
        sample.is_list = is_list(ann_file)
        if sample.categories:  # other formats have such lists within an image's entry
            sample.images = read_first(ann_file, 'images', MOST_IMAGES)
            sample.objects = read_first(ann_file, 'annotations', MOST_OBJECTS)
    with _short_copy(ann_file, sample.categories) as short:
        if short is not None:
            _read(sample, short)
    return sample


def is_base_dataset(node: Mapping[str, Any]) -> bool:
    """Whether a config's data set is one of mmengine's, or of no class that is known."""
    kind = node.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return not isinstance(kind, type) or issubclass(kind, BaseDataset)


def _is_on_disk(node: Mapping[str, Any]) -> bool:
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    paths = [node.get('data_root'), node.get('ann_file')]
    prefixes = node.get('data_prefix')
    paths += prefixes.values() if isinstance(prefixes, Mapping) else []
    remote = any(isinstance(path, str) and '://' in path for path in paths)
    return backend == 'local' and not remote


@contextlib.contextmanager
def _short_copy(ann_file: str, categories: list[dict[str, Any]]) -> Iterator[str | None]:
    """An annotation file like ``ann_file`` of a few images; None of a kind that is not known."""
    if not ann_file or os.path.isdir(ann_file):  # the class lists a folder
        yield ann_file
        return
    name = os.path.basename(ann_file)
    text = None
    if name.endswith('.json'):
        if images := read_first(ann_file, 'images', MOST_IMAGES):
            text = json.dumps(dict(images=images, annotations=[], categories=categories))
        elif entries := read_first(ann_file, 'data_list', MOST_IMAGES):
            text = json.dumps(dict(metainfo={}, data_list=entries))
    elif name.endswith('.txt'):
        with open(ann_file, encoding='utf-8', errors='surrogateescape') as file:
            text = ''.join(line for line, _ in zip(file, range(MOST_IMAGES), strict=False))
    if text is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        short = os.path.join(folder, name)
        with open(short, 'w', encoding='utf-8', errors='surrogateescape') as file:
            file.write(text)
        yield short


def _read(sample: DatasetSample, ann_file: str) -> None:
    reader = copy.copy(sample.dataset)
    reader.ann_file = ann_file
    with _quietly():
        try:
            infos = reader.load_data_list()
        except FileNotFoundError as error:
            sample.missing = error.filename
            return
        except Exception:  # it needs more than the short copy holds
            return
    if isinstance(infos, list) and all(isinstance(info, Mapping) for info in infos):
        sample.infos, sample.reader = infos, reader


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What libraries print of loading would be said twice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
