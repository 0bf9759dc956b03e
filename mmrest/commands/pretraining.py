"""Does a training start from weights, as its schedule and its frozen stages presume?"""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import find_latest_checkpoint

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.commands.config import require_model
from mmrest.config_nodes import is_pretrained, scope_of, task_model, type_name
from mmrest.errors import InputError


def require_weights(cfg: Config) -> None:
    """Check that a fine-tuning, or a training with frozen stages, has weights to start from.

    A config says that it fine-tunes by ``fine_tuning = True``, as the schedules of COCO and ADE20K
    in ``configs/_base_`` do.

    Raises:
        InputError: It would start from random weights; the message gives the two ways out. For
            backbones that are not mmrest's it is a warning, since mmdet and mmseg train so.
    """
    require_model(cfg)
    model = task_model(cfg)
    backbone = model.get('backbone')
    if not isinstance(backbone, Mapping) or _has_weights(cfg, model, backbone):
        return
    frozen = backbone.get('frozen_stages', -1)
    freezes = isinstance(frozen, int) and frozen >= 0
    if not freezes and not cfg.get('fine_tuning'):
        return
    what = (
        f'freezes random weights (model.backbone.frozen_stages={frozen})'
        if freezes
        else 'is a fine-tuning that starts from random weights'
    )
    text = f'{cfg.filename}: this training {what}.'
    if not _is_of_mmrest(cfg, backbone):
        print_log(f'{text} Give model.backbone.init_cfg a checkpoint.', 'current', level=30)
        return
    raise InputError(
        f'{text} Either start from pretrained weights:\n'
        '  --cfg-options model.backbone.init_cfg.type=Pretrained '
        'model.backbone.init_cfg.checkpoint=FILE\n'
        'or train from scratch, with nothing frozen (and expect to need a longer schedule):\n'
        '  --from-scratch'
    )


def train_from_scratch(cfg: Config) -> None:
    """Train without pretrained weights and with nothing frozen: ``--from-scratch``.

    Raises:
        InputError: The config loads a checkpoint.
    """
    require_model(cfg, '--from-scratch')
    if cfg.get('load_from') and not cfg.get('resume'):
        raise InputError(f'--from-scratch and load_from={cfg.load_from} exclude each other')
    cfg.fine_tuning = False
    forget_weights(cfg)
    model = task_model(cfg)
    if 'frozen_stages' in (model.get('backbone') or {}):
        model.backbone.frozen_stages = -1


def forget_weights(cfg: Config) -> None:
    """Load no pretrained weights: a resumed training, for one, has its own."""
    model = task_model(cfg)
    for node in (model, model.get('backbone') or ConfigDict()):
        entries = node.get('init_cfg') or []
        entries = [entries] if isinstance(entries, Mapping) else entries
        if others := [entry for entry in entries if not is_pretrained(entry)]:
            node.init_cfg = others
        else:
            node.pop('init_cfg', None)
        if node.get('pretrained'):
            node.pretrained = None


def _has_weights(cfg: Config, model: Mapping, backbone: Mapping) -> bool:
    if cfg.get('load_from') or (cfg.get('resume') and find_latest_checkpoint(cfg.work_dir)):
        return True
    for node in (model, backbone):
        entries = node.get('init_cfg') or []
        entries = [entries] if isinstance(entries, Mapping) else entries
        if node.get('pretrained') or any(is_pretrained(entry) for entry in entries):
            return True
    return False


def _is_of_mmrest(cfg: Config, backbone: Mapping) -> bool:
    kind = backbone.get('type')
    if isinstance(kind, str):
        init_default_scope(scope_of(cfg) or 'mmengine')
        kind = MODELS.get(kind) if type_name(backbone) else None
    return isinstance(kind, type) and issubclass(kind, PyramidBackbone)
