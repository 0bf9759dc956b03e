# Mask R-CNN, ResFormer, the built-in shapes, every batch at three resolutions.
_base_ = ['./mask_rcnn_resformer_shapes.py']
model = dict(
    _delete_=True,
    type='mmrest.MultiResolution',
    model=_base_.model,
    scales=(1.0, 0.71, 0.57),
    consistency=dict(target='cls'),
)
