"""Batches of the forward pass: they shrink for good when memory ends, and the tokens are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emvfm.extraction.forward import Forward


class _Backbone:
    """A backbone of one layer whose patch tokens are the grey of their 4 px patches; memory ends above `most`."""

    device = torch.device("cpu")

    def __init__(self, most: int, error: Exception) -> None:
        self.most, self.error, self.seen = most, error, []

    def tokens(self, batch: torch.Tensor, layers: tuple[int, ...]) -> Any:
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        patches = torch.nn.functional.avg_pool2d(batch, 4).permute(0, 2, 3, 1)[:, None]
        return SimpleNamespace(patches=patches, cls=patches.mean(dim=(2, 3)))


def _images(n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [rng.random((3, 8, 12), np.float32) for _ in range(n)], [np.ones((2, 3), np.float32)] * n


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("out of memory")]
)
def test_batches_shrink_for_good_when_memory_ends(error: Exception) -> None:
    images = _images(11)
    backbone = _Backbone(2, error)
    forward = Forward(backbone, (0,), "float32", 8)  # type: ignore[arg-type]
    found = [output.numpy() for output in forward(*images)]
    assert backbone.seen == [8, 4, 2, 2, 2, 2, 2, 1]
    assert forward.batch_size == 2
    backbone.seen.clear()
    forward(*images)
    assert backbone.seen == [2, 2, 2, 2, 2, 1]
    alone = Forward(_Backbone(1, error), (0,), "float32", 1)  # type: ignore[arg-type]
    singly = [output.numpy() for output in alone(*images)]
    for got, want in zip(zip(*found, strict=True), zip(*singly, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(got), np.concatenate(want), atol=1e-6)


def test_without_memory_for_a_single_image_the_error_is_passed_on() -> None:
    backbone = _Backbone(0, MemoryError())
    with pytest.raises(MemoryError):
        Forward(backbone, (0,), "float32", 4)(*_images(3))  # type: ignore[arg-type]
    assert backbone.seen == [3, 2, 1]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    backbone = _Backbone(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        Forward(backbone, (0,), "float32", 4)(*_images(3))  # type: ignore[arg-type]
    assert backbone.seen == [3]
