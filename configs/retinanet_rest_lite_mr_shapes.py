# RetinaNet, ResT-lite, the built-in shapes, every batch at three resolutions.
_base_ = ['./retinanet_rest_lite_shapes.py']
model = dict(
    _delete_=True,
    type='mmrest.MultiResolution',
    model=_base_.model,
    scales=(1.0, 0.71, 0.57),
    consistency=dict(target='gap'),
)
