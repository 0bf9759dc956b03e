"""Reading checkpoints safely and fitting them to a model strictly.

mmengine's own reader either unpickles whatever a file holds, code included, or (mmengine 0.10.7 on
torch >= 2.6) cannot read the training checkpoints that it wrote; and what it loads is whatever
keys happen to match. Here a file is read with ``torch.load(weights_only=True)`` and a short list of
plain data types (:mod:`.reading`), a model is loaded only if every key and shape fits
(:mod:`.fitting`), and a training goes on only from what one saves (:mod:`.training_state`).
:mod:`.mmengine_loader` gives the reader to mmengine's runners and inferencers.
"""

from mmrest.checkpoints.errors import CheckpointError, CheckpointNotFoundError
from mmrest.checkpoints.fitting import (
    RenamedCheckpoint,
    load_pretrained,
    refuse_fused_state,
    require_fit,
    take_backbone,
)
from mmrest.checkpoints.key_map import (
    MMCV_ATTENTION,
    Fresh,
    KeyMap,
    as_linear,
    counted_from_one,
    key_value_rows,
    query_rows,
)
from mmrest.checkpoints.mmengine_loader import use_safe_reader
from mmrest.checkpoints.reading import dataset_meta, read_checkpoint, save_safetensors
from mmrest.checkpoints.states import model_state
from mmrest.checkpoints.training_state import (
    require_optimizer_state,
    require_schedulers_state,
    require_training_state,
)

__all__ = [
    'MMCV_ATTENTION',
    'CheckpointError',
    'CheckpointNotFoundError',
    'Fresh',
    'KeyMap',
    'RenamedCheckpoint',
    'as_linear',
    'counted_from_one',
    'dataset_meta',
    'key_value_rows',
    'load_pretrained',
    'model_state',
    'query_rows',
    'read_checkpoint',
    'refuse_fused_state',
    'require_fit',
    'require_optimizer_state',
    'require_schedulers_state',
    'require_training_state',
    'save_safetensors',
    'take_backbone',
    'use_safe_reader',
]
