"""``--cfg-options`` are values: whatever is written there, no code is run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.commands import load_config
from mmrest.commands.cli import add_config_arguments
from tests.conftest import ROOT

CODE = "__import__('pathlib').Path('{file}').touch()"
SPELLINGS = [
    '{code}',
    '[{code}]',
    '({code},)',
    '[1,({code},2)]',
    '{{"a": {code}}}',
    '{{{{ {code} }}}}',
    '{{{{_base_.{code}}}}}',
    '${{{code}}}',
    '$({code})',
    '`{code}`',
    'dict(a={code})',
    'lambda: {code}',
    '!!python/object/apply:os.system ["touch {file}"]',
    "f'{{{code}}}'",
]


@pytest.mark.parametrize('spelling', SPELLINGS)
@pytest.mark.parametrize('key', ['model.backbone.arch', '_base_'])
def test_no_option_runs_code(key: str, spelling: str, tmp_path: Path) -> None:
    file = tmp_path / 'ran'
    value = spelling.format(code=CODE.format(file=file), file=file)
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    try:
        options = parser.parse_args(['--cfg-options', f'{key}={value}']).cfg_options
        cfg = load_config(str(ROOT / 'configs/retinanet_rest_lite_shapes.py'), options)
        Config(cfg.to_dict()).pretty_text  # noqa: B018  (formats what was given)
    except (Exception, SystemExit):
        pass  # it may be refused
    assert not file.exists()
