"""What the command lines share: configs, the check of the data, running, predicting."""

from mmrest.engine.config import load_config, move_data_root
from mmrest.engine.data_check import prepare_data

__all__ = ['load_config', 'move_data_root', 'prepare_data']
