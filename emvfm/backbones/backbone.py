"""The backbone: a frozen or adapted vision transformer that turns images into tokens in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from emvfm.errors import UsageError

if TYPE_CHECKING:
    from emvfm.backbones.injection import InjectedAdapter
    from emvfm.backbones.registry import BackboneSpec

__all__ = ["Backbone", "Library", "Tokens", "evenly_spaced"]


@dataclass(frozen=True)
class Tokens:
    """Normed tokens of some blocks of a backbone, float32.

    Attributes
    ----------
    cls
        ``(B, L, D)`` class tokens; the mean of the patch tokens where the model has no class token
        (``spec.has_cls`` is false).
    patches
        ``(B, L, h, w, D)`` patch tokens, row by row as in the image.
    registers
        ``(B, L, R, D)`` register tokens; R may be 0.
    """

    cls: Tensor
    patches: Tensor
    registers: Tensor


class Library(Protocol):
    """What is different from one model library to the next."""

    def build(self, spec: BackboneSpec) -> nn.Module:
        """Return the model with the library's own initialisation, on the default device."""
        ...

    def convert(self, state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Return a weight file's tensors under the parameter names of `module`."""
        ...

    def layer_tokens(self, module: nn.Module, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return ``(B, P + h w, D)`` normed tokens for each of the ascending `layers`, in one pass."""
        ...

    def own_tokens(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return the normed tokens of the last block as the library's own forward computes them.

        Only for images of the native size; the oracle of `layer_tokens`.
        """
        ...

    def open_for_adapters(self, module: nn.Module) -> None:
        """Make every weight of the blocks a linear layer's that runs in the forward pass, same numbers."""
        ...

    def blocks(self, module: nn.Module) -> tuple[str, nn.ModuleList]:
        """Return the dotted name and the list of the transformer's blocks."""
        ...


def evenly_spaced(depth: int, n: int = 4) -> tuple[int, ...]:
    """Return `n` evenly spaced 0-based block indices that end with the last block.

    >>> evenly_spaced(12)
    (2, 5, 8, 11)
    """
    n = min(n, depth)
    return tuple((i + 1) * depth // n - 1 for i in range(n))


class Backbone:
    """A vision transformer with all that names it.

    Attributes
    ----------
    spec
        The row of the table.
    module
        The library's model, in evaluation mode, frozen unless something was made trainable.
    label
        A name that is honest about where the weights came from.
    weights_digest
        SHA-256 of the weight file, or ``"untrained:<scheme>:<seed>"``.
    device, precision
        Where it runs, and ``"float32"`` or ``"bfloat16"`` (autocast; parameters stay float32).
    adapter
        The injected LoRA adapter, if any.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        module: nn.Module,
        library: Library,
        *,
        label: str,
        weights_digest: str,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self.library = library
        self.label = label
        self.weights_digest = weights_digest
        self.precision = precision
        self.adapter: InjectedAdapter | None = None

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.spec.patch

    @property
    def width(self) -> int:
        """Length D of a token."""
        return self.spec.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.spec.depth

    @property
    def adapter_digest(self) -> str | None:
        """SHA-256 of the adapter's tensors and shape as they are now; None without an adapter."""
        return None if self.adapter is None else self.adapter.digest(self.module)

    def default_layers(self, n: int = 4) -> tuple[int, ...]:
        """Return `n` evenly spaced blocks, the last included."""
        return evenly_spaced(self.depth, n)

    def choose_layers(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Return `layers` as given, checked, or the default ones.

        Raises
        ------
        UsageError
            An index is outside 0 … depth - 1, repeated, or none is given.
        """
        if layers is None:
            return self.default_layers()
        chosen = tuple(int(layer) for layer in layers)
        if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0 or max(chosen) >= self.depth:
            raise UsageError(
                "not a choice of layers",
                where=self.spec.name,
                got=", ".join(map(str, chosen)) or "none",
                expected=f"different block indices from 0 to {self.depth - 1}",
            )
        return chosen

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the module computes."""
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def tokens(self, images: Tensor, layers: Sequence[int] | None = None) -> Tokens:
        """Return the tokens of `layers`, in their order, each through the model's final norm.

        One forward pass, with or without gradients as the caller's context says.

        Parameters
        ----------
        images
            ``(B, K, H, W)`` float, one channel a slot of the backbone (three of colour), normalised (see
            `preprocess`), H and W multiples of the patch.
        layers
            0-based block indices; the default ones if None.

        Raises
        ------
        UsageError
            A wrong shape, a side that is no multiple of the patch or shorter than it, a wrong layer.
        """
        chosen = self.choose_layers(layers)
        height, width = self._check(images)
        ascending = sorted(chosen)
        with self.autocast():
            outputs = self.library.layer_tokens(self.module, images.to(self.device), ascending)
        stacked = torch.stack([outputs[ascending.index(layer)] for layer in chosen], dim=1).float()
        n_cls, prefix = int(self.spec.has_cls), self.spec.prefix
        grid = (height // self.patch, width // self.patch)
        if stacked.shape[2] != prefix + grid[0] * grid[1]:
            raise UsageError(
                "the model's tokens are not those of its table row",
                where=self.spec.name,
                got=f"{stacked.shape[2]} tokens",
                expected=f"{prefix} + {grid[0]} x {grid[1]}",
            )
        patches = stacked[:, :, prefix:]
        cls = stacked[:, :, 0] if n_cls else patches.mean(dim=2)
        return Tokens(cls, patches.unflatten(2, grid), stacked[:, :, n_cls:prefix])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory when gradients flow through the blocks."""
        self.module.set_grad_checkpointing(enable)  # type: ignore[operator]

    def _check(self, images: Tensor) -> tuple[int, int]:
        slots = len(self.spec.slots)
        if images.ndim != 4 or images.shape[1] != slots:
            expected = f"(B, {slots}, H, W)"
            raise UsageError("not a batch of images", got=tuple(images.shape), expected=expected)
        height, width = images.shape[2:]
        if height < self.patch or width < self.patch or height % self.patch or width % self.patch:
            raise UsageError(
                "the sides of the image are not whole patches",
                where=self.spec.name,
                got=f"{height} x {width} px",
                expected=f"multiples of {self.patch} px",
                todo="prepare images with Preprocess.prepare",
            )
        return height, width

    def __repr__(self) -> str:
        return f"Backbone({self.label!r}, {self.precision} on {self.device})"
