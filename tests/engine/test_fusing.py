from __future__ import annotations

from mmrest import ResTV2
from mmrest.backbones.fused import AttentionInChunks
from mmrest.engine.fusing import FuseHook
from tests.backbones.families import build, randomize


def test_the_hook_fuses_for_the_test_alone() -> None:
    class Runner:
        model = randomize(build(ResTV2)).train()

    hook, before = FuseHook(), dict(Runner.model.named_modules())
    hook.before_test(Runner)
    assert any(isinstance(m, AttentionInChunks) for m in Runner.model.modules())
    hook.after_test(Runner)
    assert dict(Runner.model.named_modules()) == before
