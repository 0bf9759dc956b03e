"""What the libraries say in every run and nobody can act on, kept out of the commands' output."""

from __future__ import annotations

import logging
import warnings

from mmengine.logging import MMLogger

_WARNINGS = (
    'faster_coco_eval is not installed',  # a metric that is another's
    r"Failed to add <class 'mmengine\.visualization",  # the commands write pictures themselves
    r'Warning: The (bbox|polygon) is out of bounds',
)
_TORCH = 'torch.onnx._internal.exporter._registration'  # that torchvision is not there


def hide_library_noise() -> None:
    """Hide it for the rest of the process; everything else is said as before."""
    for message in _WARNINGS:
        warnings.filterwarnings('ignore', message)
    logging.getLogger(_TORCH).setLevel(logging.ERROR)
    MMLogger.get_current_instance().addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    # neither mmdet nor mmseg has a registry of functions
    return 'in the "function" registry tree' not in record.getMessage()
