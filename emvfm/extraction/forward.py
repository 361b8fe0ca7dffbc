"""The forward pass of a batch: tokens as they are stored, made where the model is."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.channels import Join
from emvfm.backbones.memory import out_of_memory

__all__ = ["Forward", "Outputs"]


@dataclass(frozen=True)
class Outputs:
    """The tokens of a batch, on the device that computed them: who reads them waits, not who asks for them.

    Attributes
    ----------
    patches
        ``(n, L, h, w, D)`` in the stored type.
    cls, mean
        ``(n, L, D)`` float32; `mean` is that of the patches, weighted by their validity.
    """

    patches: Tensor
    cls: Tensor
    mean: Tensor

    def numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `patches`, `cls` and `mean` in main memory."""
        return self.patches.cpu().numpy(), self.cls.cpu().numpy(), self.mean.cpu().numpy()


class Forward:
    """Runs a backbone over images of one size, in batches that shrink for good when memory ends.

    Attributes
    ----------
    batch_size
        Images a pass: as given, or 1 on a CPU, where more are not faster, and 8 elsewhere.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: tuple[int, ...],
        dtype: str,
        batch_size: int | None,
        join: Join = "concat",
    ) -> None:
        self.backbone, self.layers, self._join = backbone, layers, join
        self.dtype = {"float16": torch.float16, "float32": torch.float32}[dtype]
        self.batch_size = batch_size or (1 if backbone.device.type == "cpu" else 8)

    def __call__(
        self, pixels: Sequence[np.ndarray], valid: Sequence[np.ndarray], dtype: torch.dtype | None = None
    ) -> list[Outputs]:
        """Return the tokens of images ``(K, H, W)`` of one size, in parts of at most `batch_size`.

        Those of images ``(P, K, H, W)`` of several passes are joined: P times as long, or their mean.

        Parameters
        ----------
        valid
            ``(h, w)`` float32 in [0, 1] for each.
        dtype
            Type of the patches instead of the stored one.
        """
        outputs, done = [], 0
        while done < len(pixels):
            part = slice(done, done + self.batch_size)
            try:
                outputs.append(self._compute(np.stack(pixels[part]), np.stack(valid[part]), dtype))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                gc.collect()
                if self.backbone.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            done += len(outputs[-1].cls)
        return outputs

    @torch.inference_mode()
    def _compute(self, pixels: np.ndarray, valid: np.ndarray, dtype: torch.dtype | None) -> Outputs:
        batch, weights = torch.from_numpy(pixels), torch.from_numpy(valid)
        if self.backbone.device.type == "cuda":  # from pinned memory the copy does not hold up the host
            batch = batch.pin_memory().to(self.backbone.device, non_blocking=True)
        tokens = self._tokens(batch)
        weights = weights.to(tokens.patches.device)
        weights = weights / weights.sum(dim=(1, 2), keepdim=True)
        mean = torch.einsum("nlyxd,nyx->nld", tokens.patches, weights)
        return Outputs(tokens.patches.to(dtype or self.dtype), tokens.cls, mean)

    def _tokens(self, batch: Tensor) -> Tokens:
        """Return the tokens of ``(n, [P,] K, H, W)``, pass by pass so that no more is in memory than of one."""
        if batch.ndim == 4:
            return self.backbone.tokens(batch, self.layers)
        passes = [self.backbone.tokens(one, self.layers) for one in batch.unbind(1)]

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts, dim=-1) if self._join == "concat" else torch.stack(parts).mean(dim=0)

        return Tokens(
            joined([p.cls for p in passes]),
            joined([p.patches for p in passes]),
            joined([p.registers for p in passes]),
        )
