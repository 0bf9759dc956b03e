"""Backbones. Importing this package registers them with mmengine's root registry."""

from mmrest.backbones.cswin import CSWin
from mmrest.backbones.gpvit import GPViT
from mmrest.backbones.gpvit_adapter import GPViTAdapter
from mmrest.backbones.mvit_v2 import MViTV2
from mmrest.backbones.p2t import P2T
from mmrest.backbones.pvt import PVT
from mmrest.backbones.pvt_v2 import PVTV2
from mmrest.backbones.pyramid import BACKBONES, PyramidBackbone, register_backbone
from mmrest.backbones.resformer import ResFormer
from mmrest.backbones.rest import ResT
from mmrest.backbones.rest_v2 import ResTV2
from mmrest.backbones.swin import Swin
from mmrest.backbones.twins import TwinsPCPVT, TwinsSVT

__all__ = [
    'BACKBONES',
    'P2T',
    'PVT',
    'PVTV2',
    'CSWin',
    'GPViT',
    'GPViTAdapter',
    'MViTV2',
    'PyramidBackbone',
    'ResFormer',
    'ResT',
    'ResTV2',
    'Swin',
    'TwinsPCPVT',
    'TwinsSVT',
    'register_backbone',
]
