"""The version, readable without importing anything of the OpenMMLab stack."""

__version__ = '0.1.0'
