# 36 epochs of COCO for plain vision transformers: ViTDet's optimizer (arXiv 2203.16527, appendix
# A.2: AdamW, weight decay 0.1, layer-wise decay 0.7 of the base model) at ResT's batch of 16.
_base_ = ['./coco_3x.py']
optim_wrapper = dict(
    constructor='mmrest.LayerDecayOptimWrapperConstructor',
    optimizer=dict(weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        # nor on the class token, as the authors of ResFormer
        custom_keys={'cls_token': dict(decay_mult=0.0)},
    ),
)
