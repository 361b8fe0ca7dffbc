"""The U-Net: shapes, parameters counted by hand, what a pixel sees, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from emvfm.errors import UsageError
from emvfm.segmentation.heads import count_parameters
from emvfm.segmentation.unet import UNet


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("classes", "channels", "width"), [(2, 3, 8), (3, 1, 5)])
def test_logits_have_the_classes_and_the_size_of_the_input(
    depth: int, classes: int, channels: int, width: int
) -> None:
    net = UNet(width, depth, classes=classes, channels=channels)
    assert net.multiple == 2**depth
    logits = net(torch.randn(2, channels, 3 * net.multiple, 2 * net.multiple))
    assert logits.shape == (2, classes, 3 * net.multiple, 2 * net.multiple)
    assert logits.dtype == torch.float32


def test_the_parameters_follow_from_the_layers_and_the_widest_level_is_bounded() -> None:
    def twice(inside: int, outside: int) -> int:
        return 9 * (inside + outside) * outside + 4 * outside

    def want(widths: list[int]) -> int:
        total = sum(twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        for coarse, fine in zip(widths[1:], widths, strict=False):
            total += 4 * coarse * fine + fine + twice(2 * fine, fine)
        return total + 2 * widths[0] + 2

    assert count_parameters(UNet(8, 3)) == want([8, 16, 32, 64])
    assert count_parameters(UNet(32, 5)) == want([32, 64, 128, 256, 512, 512])
    assert count_parameters(UNet()) == want([32, 64, 128, 256, 512])


def test_a_pixel_sees_what_is_near_most_and_what_is_beyond_its_finest_level_too() -> None:
    torch.manual_seed(0)
    net = UNet(4, 3).eval()
    for module in net.modules():
        if isinstance(
            module, nn.Sequential
        ):  # norms look at the whole image; without them only what is wired
            for i, layer in enumerate(module):
                if isinstance(layer, nn.GroupNorm):
                    module[i] = nn.Identity()
    pixels = torch.randn(1, 3, 96, 96, requires_grad=True)
    seen = torch.autograd.grad(net(pixels)[0, 1, 48, 48], pixels)[0].abs().sum((0, 1))
    assert seen[47:50, 47:50].mean() > 3 * seen[40:57, 40:57].mean()
    assert seen[48, 24:30].any()
    assert not seen[48, 0]


def test_images_of_a_batch_do_not_touch_each_other_and_training_answers_as_evaluation_does() -> None:
    net, pixels = UNet(8, 2), torch.randn(3, 3, 16, 16)
    together = net(pixels)
    assert torch.allclose(together[1], net(pixels[1:2])[0], atol=1e-5)
    assert torch.equal(together, net.eval()(pixels))


def test_dropout_acts_in_training_only() -> None:
    net, pixels = UNet(8, 2, dropout=0.5), torch.randn(1, 3, 16, 16)
    assert not torch.equal(net(pixels), net(pixels))
    net.eval()
    assert torch.equal(net(pixels), net(pixels))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_every_parameter_gets_a_gradient_and_disks_are_learnt(activation: str) -> None:
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    target = torch.stack([(y - 10) ** 2 + (x - 12) ** 2 < 50, (y - 20) ** 2 + (x - 16) ** 2 < 80]).long()
    pixels = target[:, None].float().repeat(1, 3, 1, 1) + 0.5 * torch.randn(2, 3, 32, 32)
    net = UNet(8, 2, activation=activation)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(24):
        loss = nn.functional.cross_entropy(net(pixels), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    assert losses[-1] < 0.3 * losses[0]


def test_uneven_sides_and_numbers_out_of_range_are_usage_errors() -> None:
    net = UNet(4, 2)
    for size in ((6, 8), (8, 6), (0, 8)):
        with pytest.raises(UsageError, match="multiples of 4"):
            net(torch.zeros(1, 3, *size))
    wrong = (
        {"width": 0},
        {"depth": 0},
        {"classes": 1},
        {"channels": 0},
        {"dropout": 1.0},
        {"activation": "x"},
    )
    for options in wrong:
        with pytest.raises(UsageError):
            UNet(**{"width": 4, "depth": 1, **options})  # type: ignore[arg-type]
