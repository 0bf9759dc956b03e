# COCO with instance masks, short side 480 to 800 in steps of 32, without crops.
_base_ = ['./coco_instance_800.py']
train_pipeline = _base_.train_pipeline
train_pipeline[2].scales = [(1333, short) for short in range(480, 801, 32)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
