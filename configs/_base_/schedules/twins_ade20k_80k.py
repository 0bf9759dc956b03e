# The authors of Twins take 32 images a step.
_base_ = ['./sem_fpn_80k.py']
auto_scale_lr = dict(base_batch_size=32)
