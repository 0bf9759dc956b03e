# 80k iterations of ADE20K at batch 16 for Semantic FPN: AdamW with a decay of 1e-4 on everything,
# no warm-up. The authors of CSWin say so but for the power, which is PVT's.
_base_ = ['./ade20k_160k.py']
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=80000),
]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4), paramwise_cfg=dict(_delete_=True))
