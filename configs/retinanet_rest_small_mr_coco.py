# RetinaNet, ResT-small, every batch at three resolutions, in the ratios of
# the paper's 224, 160 and 128, with the consistency loss. Not measured.
_base_ = ['./retinanet_rest_small_coco.py']
model = dict(
    _delete_=True,
    type='mmrest.MultiResolution',
    model=_base_.model,
    scales=(1.0, 0.71, 0.57),
    consistency=dict(target='gap'),
)
