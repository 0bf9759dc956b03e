"""Backbones for MMDetection 3.x and MMSegmentation 1.x that take images of any size."""

from contextlib import nullcontext

from mmrest.errors import clear_errors
from mmrest.stack import check_stack, is_asked_by_doctor, is_command
from mmrest.version import __version__ as __version__

# the doctor examines a stack that may be broken
if not is_asked_by_doctor():
    with clear_errors() if is_command() else nullcontext():  # Ctrl-C: this takes seconds
        check_stack()  # before anything of it is imported
        from mmrest.api import *  # noqa: F403
        from mmrest.api import __all__ as __all__
        from mmrest.lookup import understand_names_in_bases

        understand_names_in_bases()
