"""A page about a training, or about several: what lies in their work directories, in one file."""

from mmrest.report.page import write_page
from mmrest.report.runs import Run, read_run

__all__ = ['Run', 'read_run', 'write_page']
