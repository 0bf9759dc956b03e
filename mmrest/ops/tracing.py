"""Whether torch exports a model."""

from __future__ import annotations

import torch

if hasattr(torch.compiler, 'is_exporting'):
    is_exporting = torch.compiler.is_exporting
else:

    def is_exporting() -> bool:
        """``torch.compiler.is_exporting``, which torch 2.6 has not (there of ``strict=False``)."""
        return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
