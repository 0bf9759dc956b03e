from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrest.multires import ScaleConsistencyLoss
from mmrest.multires.consistency import TARGETS, features_of_map


def by_hand(
    student: torch.Tensor, teacher: torch.Tensor, eps: float = 1e-6, beta: float = 1.0
) -> float:
    """Smooth-L1 (mean) to the whitened teacher, an element at a time."""
    total, count = 0.0, 0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        mean, variance = np.mean(t), np.var(t)
        for a, b in zip(s, t, strict=True):
            distance = abs(a - (b - mean) / np.sqrt(variance + eps))
            near = distance < beta
            total += 0.5 * distance**2 / beta if near else distance - 0.5 * beta
            count += 1
    return total / count


@pytest.mark.parametrize('target', ['cls', 'gap'])
def test_vectors_equal_a_hand_calculation(target: str) -> None:
    student, teacher = torch.randn(3, 8) * 2, torch.randn(3, 8) * 5 + 2
    loss = ScaleConsistencyLoss(target, loss_weight=0.5)(student, teacher)
    assert loss.item() == pytest.approx(0.5 * by_hand(student, teacher), rel=1e-5)


def test_options_equal_a_hand_calculation() -> None:
    student, teacher = torch.randn(3, 8) * 2, torch.randn(3, 8)
    loss = ScaleConsistencyLoss('gap', eps=0.5, beta=0.25)(student, teacher)
    assert loss.item() == pytest.approx(by_hand(student, teacher, 0.5, 0.25), rel=1e-5)


def test_other_numbers_of_images_are_no_pairs() -> None:
    maps = [torch.randn(5, 2, 3)] * 2
    with pytest.raises(ValueError, match='shorter'):
        ScaleConsistencyLoss('map')(maps, maps[:1])
    with pytest.raises(ValueError, match='shorter'):
        features_of_map(torch.randn(2, 5, 2, 3), [(8, 8)], (8, 8), pool=True)


def test_a_small_image_keeps_one_cell() -> None:
    last_map = torch.randn(1, 5, 4, 4)
    (part,) = features_of_map(last_map, [(1, 8)], (32, 32), pool=False)
    assert torch.equal(part, last_map[0, :, :1, :1])


def test_maps_equal_a_hand_calculation() -> None:
    teacher = torch.randn(5, 4, 6)
    student = torch.randn(5, 2, 3)
    pooled = teacher.reshape(5, 2, 2, 3, 2).mean(dim=(2, 4))
    loss = ScaleConsistencyLoss('map')([student], [teacher])
    expected = by_hand(student.flatten(1).t(), pooled.flatten(1).t())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_every_position_of_every_image_counts_alike() -> None:
    sizes = [(2, 3), (4, 1)]
    students = [torch.randn(5, *size) for size in sizes]
    teachers = [torch.randn(5, 2 * h, 2 * w + 1) for h, w in sizes]
    loss = ScaleConsistencyLoss('map')
    parts = [loss([s], [t]).item() for s, t in zip(students, teachers, strict=True)]
    expected = (parts[0] * 6 + parts[1] * 4) / 10
    assert loss(students, teachers).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('target', TARGETS)
def test_the_gradient_reaches_the_lower_resolution_only(target: str) -> None:
    shape = (2, 4, 3, 3) if target == 'map' else (2, 4)
    student, teacher = (torch.randn(shape, requires_grad=True) for _ in range(2))
    pair = (list(student), list(teacher)) if target == 'map' else (student, teacher)
    ScaleConsistencyLoss(target)(*pair).backward()
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


def test_whitening_ignores_the_teachers_offset_and_scale() -> None:
    student, teacher = torch.randn(3, 64), torch.randn(3, 64)
    loss = ScaleConsistencyLoss()
    torch.testing.assert_close(loss(student, teacher), loss(student, 7 * teacher - 3))
    assert not torch.allclose(loss(student, teacher), loss(7 * student - 3, teacher))


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = torch.randn(3, 64).bfloat16(), torch.randn(3, 64).bfloat16()
    loss = ScaleConsistencyLoss()
    with torch.autocast('cpu', torch.bfloat16):
        result = loss(student, teacher)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(student.float(), teacher.float()))


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match="target='token' must be one of"):
        ScaleConsistencyLoss('token')


def test_padding_says_nothing() -> None:
    maps = torch.randn(2, 4, 8, 12)
    sizes, batch = [(60, 96), (33, 50)], (64, 96)
    pooled = features_of_map(maps, sizes, batch, pool=True)
    parts = features_of_map(maps, sizes, batch, pool=False)
    assert [tuple(p.shape) for p in parts] == [(4, 8, 12), (4, 5, 7)]
    torch.testing.assert_close(pooled[1], maps[1, :, :5, :7].mean(dim=(1, 2)))
    maps[1, :, 5:] = 1e6
    maps[1, :, :, 7:] = 1e6
    torch.testing.assert_close(features_of_map(maps, sizes, batch, pool=True), pooled)
