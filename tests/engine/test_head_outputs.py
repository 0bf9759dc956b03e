from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from mmrest.datasets import CLASSES
from mmrest.engine.head_outputs import require_enough_outputs
from mmrest.engine.run_checks import DataFitHook
from mmrest.errors import InputError


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class Detector(nn.Module):
    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        for name, head in heads.items():
            setattr(self, name, head)


META = dict(classes=CLASSES)


@pytest.mark.parametrize('name', ['bbox_head', 'mask_head', 'decode_head', 'panoptic_head'])
def test_every_head_needs_an_output_for_each_class(name: str) -> None:
    with pytest.raises(InputError, match=rf'model\.{name}\.num_classes=3; set num_classes=5'):
        require_enough_outputs(Detector(**{name: Head(3)}), META)
    assert require_enough_outputs(Detector(**{name: Head(5)}), META) == []
    (warning,) = require_enough_outputs(Detector(**{name: Head(80)}), META)
    assert f'fewer than model.{name}.num_classes=80' in warning
    with pytest.raises(InputError, match=r'num_classes=80; set num_classes=5'):
        require_enough_outputs(Detector(**{name: Head(80)}), META, exactly=True)


def test_warnings_are_logged_when_a_run_begins() -> None:
    logged: list[str] = []
    runner = SimpleNamespace(
        model=Detector(decode_head=Head(80)),
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=META)),
        val_loop=None,
        logger=SimpleNamespace(warning=logged.append),
    )
    DataFitHook('train').before_run(runner)
    (warning,) = logged
    assert 'set num_classes=5 there' in warning


@pytest.mark.parametrize(
    ('classes', 'said'),
    [
        (CLASSES[:-1], None),  # fewer: a warning
        ((*CLASSES, 'more'), r'val_dataloader\.dataset has 6 classes .*, more than'),
        (CLASSES[::-1], None),
    ],
)
def test_the_classes_of_the_validation_are_those_of_the_training(
    classes: tuple[str, ...], said: str | None
) -> None:
    logged: list[str] = []
    train, val = (
        SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=names)))
        for names in (CLASSES, classes)
    )
    runner = SimpleNamespace(
        model=Detector(decode_head=Head(5)),
        train_dataloader=train,
        val_loop=SimpleNamespace(dataloader=val, evaluator=SimpleNamespace(metrics=[])),
        logger=SimpleNamespace(warning=logged.append),
    )
    if said:
        with pytest.raises(InputError, match=said):
            DataFitHook('train').before_run(runner)
        return
    DataFitHook('train').before_run(runner)
    assert f'and the validation {", ".join(classes)}' in logged[-1]


def test_every_stage_of_a_cascade_counts() -> None:
    cascade = Detector(roi_head=Detector(bbox_head=nn.ModuleList([Head(5), Head(4)])))
    with pytest.raises(InputError, match=r'model\.roi_head\.bbox_head\.1\.num_classes=4'):
        require_enough_outputs(cascade, META)


class FCNHead(Head):
    """As mmseg's is called."""


def test_mmsegs_plain_auxiliary_heads_count() -> None:
    several = Detector(auxiliary_head=nn.ModuleList([Head(1), FCNHead(5), FCNHead(4)]))
    with pytest.raises(InputError, match=r'model\.auxiliary_head\.2\.num_classes=4'):
        require_enough_outputs(several, META)


def test_heads_of_another_task_may_have_fewer() -> None:
    for name in ('rpn_head', 'auxiliary_head', 'semantic_head', 'backbone'):
        assert require_enough_outputs(Detector(**{name: Head(1)}), META) == []
    panoptic = {**META, 'thing_classes': CLASSES[:2]}
    assert require_enough_outputs(Detector(bbox_head=Head(2)), panoptic) == []
