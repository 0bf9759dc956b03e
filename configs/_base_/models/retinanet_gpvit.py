# RetinaNet on GPViT with a ViT-Adapter (arXiv 2212.06795): FPN on the strides 8 to 32, P6 and P7
# from its last output, synchronised BatchNorms.
_base_ = ['./retinanet_rest.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.GPViTAdapter',
        arch='l1',
        out_indices=(1, 2, 3),
        norm_cfg=norm_cfg,
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[216, 216, 216], add_extra_convs='on_output', norm_cfg=norm_cfg),
)
