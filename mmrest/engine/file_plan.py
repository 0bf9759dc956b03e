"""A file for every image, and nothing overwritten: what ``predict`` and ``test`` write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mmrest.errors import InputError

# What OpenMMLab's visualizers' colour pictures can be written as.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def plan_files(
    images: Iterable[str | Path],
    out_dir: str | Path,
    option: str,
    replace: bool = False,
    keep_folders: bool = False,
    suffix: str | None = None,
) -> dict[str, Path]:
    """Where the picture of each image goes; images of the same name get different pictures.

    Args:
        images: Paths of image files.
        out_dir: Folder of the pictures.
        option: That asks for the pictures, for messages.
        replace: Pictures may replace files that are not among the images.
        keep_folders: Keep the images' sub-folders below the folder that they have in common.
        suffix: Of the pictures; by default the image's own, or ``.png`` if that cannot be written.

    Returns:
        Image -> picture.

    Raises:
        InputError: A picture would overwrite an image, or a file without ``replace``.
    """
    names = list(dict.fromkeys(map(str, images)))
    folders = [os.path.dirname(os.path.abspath(name)) for name in names]
    common = os.path.commonpath(folders) if keep_folders and folders else None
    sources = {os.path.realpath(name) for name in names}
    plan: dict[str, Path] = {}
    taken: set[Path] = set()
    for name, folder in zip(names, folders, strict=True):
        file = Path(name)
        place = Path(out_dir, os.path.relpath(folder, common)) if common else Path(out_dir)
        own = file.suffix if file.suffix.lower() in IMAGE_SUFFIXES else '.png'
        ending = own if suffix is None else suffix
        picture, number = place / f'{file.stem}{ending}', 2
        while picture in taken:
            picture, number = place / f'{file.stem}-{number}{ending}', number + 1
        if os.path.realpath(picture) in sources:
            raise InputError(f'{option} {out_dir} would overwrite the image {picture}')
        if picture.exists() and not replace:
            remedy = '--force replaces it' if option == '--out-dir' else 'name another folder'
            raise InputError(f'{picture} exists; {remedy}')
        taken.add(picture)
        plan[name] = picture
    return plan
