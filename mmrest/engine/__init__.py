"""What the command lines share: configs, the check of the data, running, predicting."""

from mmrest.engine.config import load_config
from mmrest.engine.data_check import prepare_data, require_usable_data
from mmrest.engine.data_root import move_data_root

__all__ = ['load_config', 'move_data_root', 'prepare_data', 'require_usable_data']
