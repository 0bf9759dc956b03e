from __future__ import annotations

from mmrest.backbones.p2t import pooled_side


def test_sides_are_rounded_as_python_does() -> None:
    for ratio in range(1, 25):
        for side in range(1, 200):
            assert pooled_side(side, ratio) == max(1, round(side / ratio))
    assert pooled_side(30, 12) == 2  # 2.5
    assert pooled_side(18, 12) == 2  # 1.5
    assert pooled_side(2, 4) == 1  # 0.5
