"""What autocast does to torch's own products, for operators that it does not know.

Under it torch's operators come out in two dtypes: products in half precision, norms in float32, on
GPUs at least. An operator that takes both would fail, or differ between its passes, of which the
backward one runs without autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def as_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in autocast's dtype where it is on, as torch's products take them.

    Args:
        tensors: Of one device; those in float64 stay as they are.
    """
    device = tensors[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)
