"""What the command lines share: configs, the check of the data, testing, predicting."""

from mmrest.commands.config import load_config
from mmrest.commands.data_check import prepare_data, require_usable_data
from mmrest.commands.data_root import move_data_root

__all__ = ['load_config', 'move_data_root', 'prepare_data', 'require_usable_data']
