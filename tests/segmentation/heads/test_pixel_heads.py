"""Heads that see pixels: what they answer, what they use, what they refuse, and that they find edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from emvfm.errors import UsageError
from emvfm.segmentation.heads import build_head, count_parameters, logits_at
from emvfm.segmentation.recipe import PIXEL_HEADS

pytestmark = pytest.mark.parametrize("name", PIXEL_HEADS)


def _inputs(h: int = 3, w: int = 5, patch: int = 14, channels: int = 16) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, channels, h, w), torch.randn(2, 3, h * patch, w * patch)


@pytest.mark.parametrize("patch", [4, 8, 14, 16])
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_have_eight_points_a_patch_whatever_its_size(name: str, patch: int, classes: int) -> None:
    tokens, pixels = _inputs(patch=patch)
    head = build_head(name, 16, layers=2, patch=patch, width=24, classes=classes)
    assert head.sees_pixels
    assert head(tokens, pixels).shape == (2, classes, 24, 40)
    assert logits_at(head, tokens, (3 * patch, 5 * patch), pixels).shape == (
        2,
        classes,
        3 * patch,
        5 * patch,
    )


def test_a_single_token_is_enough(name: str) -> None:
    tokens, pixels = _inputs(1, 1)
    assert build_head(name, 16, patch=14, width=24)(tokens, pixels).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("width", [8, 24, 40, 96])
def test_any_width_fits_the_group_norms(name: str, width: int) -> None:
    tokens, pixels = _inputs()
    assert build_head(name, 16, patch=14, width=width)(tokens, pixels).shape == (2, 2, 24, 40)


@pytest.mark.parametrize("classes", [2, 5])
def test_it_stays_far_smaller_than_the_smallest_backbone(name: str, classes: int) -> None:
    most = {"detail": 1_000_000, "unet": 1_500_000}[name]
    head = build_head(name, 4 * 384, layers=4, patch=14, classes=classes)
    assert count_parameters(head) < most


def test_it_refuses_tokens_without_the_pixels_under_them(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24)
    for wrong in (None, pixels[:1], pixels[:, :1], pixels[..., :-1], pixels.transpose(2, 3)):
        with pytest.raises(UsageError, match="pixels"):
            head(tokens, wrong)


def test_every_token_channel_and_every_pixel_counts(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24).eval()
    logits = head(tokens.requires_grad_(), pixels.requires_grad_())
    of_tokens, of_pixels = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), (tokens, pixels))
    assert (of_tokens != 0).all()
    assert (of_pixels.abs().sum(1) != 0).all()


def test_images_of_a_batch_do_not_touch_each_other(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24)
    head.eval()
    together = head(tokens, pixels)
    alone = torch.cat([head(tokens[i : i + 1], pixels[i : i + 1]) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_dropout_acts_in_training_only(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24, dropout=0.5)
    assert not torch.equal(head(tokens, pixels), head(tokens, pixels))
    head.eval()
    assert torch.equal(head(tokens, pixels), head(tokens, pixels))


def test_every_parameter_gets_a_gradient(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24)
    head(tokens, pixels).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_tokens_say_what_and_pixels_say_where(name: str) -> None:
    """Discs that only the tokens tell apart, with edges that only the pixels show, are learnt finer than a patch."""
    torch.manual_seed(0)
    patch, h = 8, 8
    rows, columns = torch.meshgrid(torch.arange(h * patch), torch.arange(h * patch), indexing="ij")
    generator = torch.Generator().manual_seed(1)

    def scene() -> tuple[Tensor, Tensor, Tensor]:
        centres = 16 + 32 * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        centres = centres + torch.randint(-4, 5, (4, 2), generator=generator)
        image, truth = torch.zeros(h * patch, h * patch), torch.zeros(h * patch, h * patch)
        tokens = torch.zeros(4, h, h)
        wanted = torch.randperm(4, generator=generator)[:2].tolist()
        for k, (y, x) in enumerate(centres.tolist()):
            disc = ((rows - y) ** 2 + (columns - x) ** 2) < 81
            image[disc] = 1
            channel = int(k in wanted)
            truth[disc] = channel
            tokens[channel, (y // patch) - 1 : y // patch + 2, (x // patch) - 1 : x // patch + 2] = 1
        return tokens, image.expand(3, -1, -1), truth.long()

    head: nn.Module = build_head(name, 4, patch=patch, width=24, dropout=0.0)
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(80):
        tokens, pixels, truth = (torch.stack(part) for part in zip(*(scene() for _ in range(4)), strict=True))
        loss = nn.functional.cross_entropy(logits_at(head, tokens, (h * patch, h * patch), pixels), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    tokens, pixels, truth = (torch.stack(part) for part in zip(*(scene() for _ in range(4)), strict=True))
    found = logits_at(head, tokens, (h * patch, h * patch), pixels).argmax(1)
    iou = ((found == 1) & (truth == 1)).sum() / ((found == 1) | (truth == 1)).sum()
    assert iou > 0.85


def test_without_its_tokens_an_image_is_judged_by_its_pixels_alone(name: str) -> None:
    tokens, pixels = _inputs()
    head = build_head(name, 16, patch=14, width=24, dropout=0.0, token_dropout=0.5)
    alike = set()
    for seed in range(10):
        answers = []
        for said in (tokens, tokens + 1):
            torch.manual_seed(seed)
            answers.append(head(said, pixels))
        alike |= {torch.equal(one, other) for one, other in zip(*answers, strict=True)}
    assert alike == {True, False}
    head.eval()
    assert not torch.equal(head(tokens, pixels), head(tokens + 1, pixels))
