# The authors of P2T end at a rate of 1e-6.
_base_ = ['./sem_fpn_80k.py']
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=80000),
]
