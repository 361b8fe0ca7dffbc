"""When a computation failed for want of memory, on whatever device."""

from __future__ import annotations

import torch

__all__ = ["out_of_memory"]

#: What torch says in a plain RuntimeError: on MPS and older CUDA, and from the allocator of the processor.
_SAYINGS = ("out of memory", "can't allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory ended, so that a smaller batch may do."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        saying in str(error).lower() for saying in _SAYINGS
    )
