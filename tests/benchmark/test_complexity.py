from __future__ import annotations

import copy

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from torch import Tensor, nn

from mmrest import ResT, Swin
from mmrest.backbones import PyramidBackbone
from mmrest.benchmark.complexity import count_macs, count_parameters
from tests.backbones.families import ROWS, build

# tracing is slow: the others in ``make test-all``
COUNTED_IN_EVERY_RUN = ResT, Swin


@pytest.mark.parametrize(
    'family',
    [
        pytest.param(family, marks=[] if family in COUNTED_IN_EVERY_RUN else pytest.mark.slow)
        for family in ROWS
    ],
    ids=lambda family: family.__name__,
)
# a model in training is counted alike
@pytest.mark.parametrize('training', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_counts_what_mmengine_counts(family: type[PyramidBackbone], training: bool) -> None:
    """The count of ``tools/analysis_tools/get_flops.py`` in mmdet and mmseg, which traces."""
    model = family(arch=next(iter(family.variants)))
    counted = count_macs(model.eval(), torch.zeros(1, 3, 64, 97))
    on_meta = count_macs(copy.deepcopy(model).to('meta'), torch.zeros(1, 3, 64, 97, device='meta'))
    # torch does not count its own fused attention on a processor
    assert counted == pytest.approx(on_meta, rel=0.03)
    theirs = get_model_complexity_info(
        model.train(training), (3, 64, 97), show_table=False, show_arch=False
    )
    # which counts norms, too; at this width they are next to nothing
    assert on_meta < theirs['flops'] / 1e9 < 1.05 * on_meta
    assert theirs['params'] == round(1e6 * count_parameters(model))


@pytest.mark.parametrize(
    'family',
    [
        pytest.param(family, marks=[] if family in COUNTED_IN_EVERY_RUN else pytest.mark.slow)
        for family in ROWS
    ],
    ids=lambda family: family.__name__,
)
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_a_trace_computes_the_same(family: type[PyramidBackbone]) -> None:
    model = build(family).eval()
    images = torch.randn(1, 3, 64, 97)
    traced = torch.jit.trace(model, images, check_trace=False)
    for actual, expected in zip(traced(images), model(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert 'mmrest::' not in str(traced.inlined_graph)


def test_a_model_that_gives_a_parameter_to_a_module_is_counted() -> None:
    class Pooling(nn.Module):
        """A learned query for each image, as a class token has it."""

        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.zeros(1, 1, 6))
            self.key = nn.Linear(6, 6)

        def forward(self, images: Tensor) -> Tensor:
            return self.key(self.query.expand(len(images), -1, -1))

    model = Pooling()
    assert count_macs(model, torch.zeros(5, 3, 2, 2)) == pytest.approx(5 * 6 * 6 / 1e9)
    assert model.query.requires_grad
