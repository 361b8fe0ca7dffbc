"""Do masks fit their own slices better than the other slices of the stack?

No rule of contrast is assumed. Every image gives a few maps (smoothed grey value, gradient, fine
texture), every mask a profile of distance bins across its outline (deep inside, …, just outside,
against a ring around it). Their products give one vector for each image–mask combination of a stack.
Rows and columns are centred, which removes what an image does with any mask and a mask with any image
(such as a layout common to all slices), and the rest is whitened by the spread over all combinations.
If the masks belong to their images, the vectors of the given pairs point the same way everywhere in
the stack; how much they do across folds of consecutive slices is the agreement

    T = mean over folds of ⟨mean vector in the fold, mean vector outside it⟩,

an unbiased estimate of the squared length of the common vector, near 0 for a shuffled pairing. Mask
continuity from slice to slice is never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ENOUGH_MASKS",
    "MIN_MASKS",
    "PairAgreement",
    "assess_pairing",
    "image_maps",
    "mask_bins",
    "pair_vectors",
]

#: With fewer masks than this every pairing looks alike.
MIN_MASKS = 4
#: From here on the shuffle test alone has the power to refuse at `SIGNIFICANT`; below, two signs must agree.
ENOUGH_MASKS = 8
SIGNIFICANT = 0.01
WEAK = 0.2
#: With right pairs nearly every mask fits its own slice best, unless slices are much thinner than structures.
OWN_BEST = 0.8
#: Another systematic pairing is clearly better when it explains this much more than the given one.
#: Above the second factor that is enough; above the first, few masks must also fit their own slice best.
CLEARLY_BETTER, FAR_BETTER = 1.15, 1.5
#: A mask is beaten when it fits another slice better than its own by this share of the typical own fit.
BEATEN_BY = 0.35

#: Side in px of the grid on which maps and masks meet.
SIDE = 256
#: Upper ends of the distance bins in grid px, negative inside; the last bin is the ring.
_BINS = (
    -6.0,
    -2.5,
    -0.5,
    0.5,
    2.5,
    6.0,
    14.0,
)
_N_BINS = len(_BINS)


def _block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return values
    h, w = values.shape[0] // factor * factor, values.shape[1] // factor * factor
    cut = values[:h, :w].reshape(h // factor, factor, w // factor, factor)
    return cut.mean(axis=(1, 3), dtype=np.float32)


def _factors(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the reduction before the maps are computed (fine texture needs pixels) and after."""
    whole = max(1, -(-max(shape[:2]) // SIDE))
    after = 2 if whole >= 2 else 1
    return max(1, whole // after), after


def image_maps(image: np.ndarray) -> np.ndarray:
    """Return the maps ``(3, h, w)`` float32 of an image (H, W) or (H, W, C), each with mean 0 and variance 1.

    Smoothed grey value less its surroundings, gradient magnitude, and strength of the fine texture.
    """
    from scipy.ndimage import gaussian_filter

    grey = image.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    before, after = _factors(grey.shape)
    grey = _block_mean(grey, before)
    grey = (grey - grey.mean()) / (grey.std() + 1e-6)
    smooth = gaussian_filter(grey, 1.5, truncate=3)
    down, across = np.gradient(smooth)
    fine = grey - gaussian_filter(grey, 2, truncate=3)
    texture = np.sqrt(gaussian_filter(fine * fine, 2, truncate=3))
    surroundings = gaussian_filter(_block_mean(smooth, 2 * after), 12 / after, mode="nearest")
    maps = [_block_mean(m, after) for m in (smooth, np.hypot(down, across), texture)]
    h, w = maps[0].shape
    spread = np.repeat(np.repeat(surroundings, 2, axis=0), 2, axis=1)
    missing = ((0, max(h - spread.shape[0], 0)), (0, max(w - spread.shape[1], 0)))
    maps[0] = maps[0] - np.pad(spread, missing, mode="edge")[:h, :w]
    return np.stack([(m - m.mean()) / (m.std() + 1e-6) for m in maps]).astype(np.float32)


def mask_bins(mask: np.ndarray) -> np.ndarray:
    """Return the distance bin ``(h, w)`` int8 of the cells of a mask (H, W): 0 deep inside, -1 far."""
    from scipy.ndimage import distance_transform_edt

    before, after = _factors(mask.shape)
    inside = _block_mean(_block_mean(mask.astype(np.float32), before), after) > 0.5
    if not inside.any() or inside.all():
        return np.full(inside.shape, -1, np.int8)
    outward = distance_transform_edt(~inside)
    distance = np.where(inside, 0.5 - distance_transform_edt(inside), outward - 0.5)
    bins = np.searchsorted(np.array(_BINS), distance, side="left")
    return np.where(bins >= _N_BINS, -1, bins).astype(np.int8)


def pair_vectors(maps: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Return one vector a combination, ``(n, n, C)`` float32: [i, j] is image i with mask j.

    Parameters
    ----------
    maps
        ``(n, 3, h, w)`` from `image_maps`.
    bins
        ``(n, h, w)`` from `mask_bins`.
    """
    n, channels = maps.shape[:2]
    flat = maps.reshape(n * channels, -1)
    vectors = np.zeros((n, n, channels, _N_BINS - 1), np.float32)
    for j in range(n):
        at = np.flatnonzero(bins[j].ravel() >= 0)
        member = (bins[j].ravel()[at, None] == np.arange(_N_BINS)).astype(np.float32)
        counts = member.sum(axis=0)
        means = (flat[:, at] @ (member / np.maximum(counts, 1))).reshape(n, channels, _N_BINS)
        filled = counts[:-1] > 0
        if counts[-1] > 0:
            vectors[:, j] = (means[..., :-1] - means[..., -1:]) * filled
    return vectors.reshape(n, n, -1)


def _whiten(vectors: np.ndarray) -> np.ndarray:
    """Centre rows and columns and whiten by the covariance over all combinations (shrunk by a tenth)."""
    centred = vectors.astype(np.float64)
    centred = centred - centred.mean(0, keepdims=True) - centred.mean(1, keepdims=True) + centred.mean((0, 1))
    flat = centred.reshape(-1, centred.shape[-1])
    covariance = flat.T @ flat / len(flat)
    covariance += (0.1 * np.trace(covariance) / len(covariance) + 1e-12) * np.eye(len(covariance))
    values, axes = np.linalg.eigh(covariance)
    return centred @ (axes / np.sqrt(values))


def _folds(n: int) -> np.ndarray:
    """Return the fold of each slice: blocks of consecutive slices, four where there are enough."""
    return np.arange(n) * min(4, n) // n


def _agreement(pairs: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return T of the vectors ``(..., n, C)`` of a pairing."""
    n = pairs.shape[-2]
    total = pairs.sum(axis=-2)
    values = []
    for fold in np.unique(folds):
        members = folds == fold
        part = pairs[..., members, :].sum(axis=-2)
        inside, outside = part / members.sum(), (total - part) / (n - members.sum())
        values.append((inside * outside).sum(axis=-1))
    return np.mean(values, axis=0)


def _signed_root(value: float) -> float:
    return float(np.sign(value) * np.sqrt(abs(value)))


def _text_order(positions: Sequence[int]) -> np.ndarray:
    return np.array(sorted(range(len(positions)), key=lambda i: str(positions[i])))


def _alternatives(positions: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return other systematic pairings as (images, masks) index arrays, by a name in plain words."""
    n = len(positions)
    every = np.arange(n)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for k in range(1, max(min(n // 2, n - 6), 0) + 1):
        slices = "1 slice" if k == 1 else f"{k} slices"
        found[f"masks moved {slices} back"] = (every[: n - k], every[k:])
        found[f"masks moved {slices} forward"] = (every[k:], every[: n - k])
    found["reversed order"] = (every, every[::-1])
    text = _text_order(positions)
    if not np.array_equal(text, every):
        found["text-sorted masks put back in number order"] = (text, every)
        found["text-sorted images put back in number order"] = (every, text)
    return found


@dataclass(frozen=True)
class PairAgreement:
    """How well the masks of one stack fit their own slices.

    Parameters
    ----------
    n
        Masks compared.
    agreement
        Length of the vector common to all given pairs, in standard deviations of a random combination;
        negative if folds of the stack contradict each other. Falls in proportion to wrong pairs.
    effect
        ``(T - mean) / sd`` of T against shuffled pairings.
    p_value
        Share of shuffled pairings with a T at least as large (one-sided, with the given one counted).
    shuffled_mean, shuffled_sd
        Of T over the shuffled pairings.
    own_best_share
        Share of masks for which no other slice fits better than their own.
    alternative, alternative_agreement, alternative_ratio
        The best of the other systematic pairings (shifts, reversed, text order undone), its agreement, and
        its T over that of the given pairing (on all slices or on the same ones, whichever is larger).
    best_offset
        For each mask the distance (in masks of the stack) to the slice it fits best.
    beaten
        For each mask whether another slice fits clearly better than its own.
    """

    n: int
    agreement: float
    effect: float
    p_value: float
    shuffled_mean: float
    shuffled_sd: float
    own_best_share: float
    alternative: str | None
    alternative_agreement: float
    alternative_ratio: float
    best_offset: tuple[int, ...]
    beaten: tuple[bool, ...]

    @property
    def refusal(self) -> str | None:
        """Why this pairing must not be used, in plain words; None if it may."""
        compared = (
            f"agreement {self.agreement:.1f} as paired, effect {self.effect:.1f} "
            f"standard deviations of shuffled pairings"
        )
        share = f"{100 * self.own_best_share:.0f} % of the masks fit their own slice best"
        if (
            self.alternative is not None
            and self.alternative_ratio > CLEARLY_BETTER
            and (self.own_best_share < OWN_BEST or self.alternative_ratio > FAR_BETTER)
        ):
            return (
                f"masks fit other slices better than their own: agreement {self.agreement:.1f} as paired, "
                f"{self.alternative_agreement:.1f} with {self.alternative}; {share}"
            )
        few = self.n < ENOUGH_MASKS
        if self.p_value > (WEAK if few else SIGNIFICANT) and (not few or self.own_best_share < OWN_BEST):
            return (
                f"masks fit their own slices no better than other slices: {compared} "
                f"(p = {self.p_value:.2g}); {share}"
            )
        if self.own_best_share < 0.5 and sum(self.beaten) > 0.25 * self.n:
            return f"masks fit other slices better than their own: {share}; {compared}"
        if not few and sum(self.beaten) >= max(2, 0.05 * self.n):
            return (
                f"{sum(self.beaten)} of {self.n} masks fit another slice clearly better than their own; "
                f"{compared}"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {
            "n": self.n,
            "agreement": round(self.agreement, 4),
            "effect": round(self.effect, 3),
            "p_value": round(self.p_value, 6),
            "shuffled_mean": round(self.shuffled_mean, 5),
            "shuffled_sd": round(self.shuffled_sd, 5),
            "own_best_share": round(self.own_best_share, 4),
            "beaten_share": round(sum(self.beaten) / self.n, 4),
            "alternative": self.alternative,
            "alternative_agreement": round(self.alternative_agreement, 4),
            "alternative_ratio": round(self.alternative_ratio, 4),
            "best_offset": list(self.best_offset),
        }


def _scores(white: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return how well mask j fits image i, ``(n, n)``, along the common vector of the other folds."""
    every = np.arange(len(white))
    given = white[every, every]
    scores = np.empty(white.shape[:2])
    for fold in np.unique(folds):
        members = folds == fold
        direction = given[~members].mean(axis=0)
        scores[members] = white[members] @ (direction / (np.linalg.norm(direction) + 1e-12))
    return scores


def assess_pairing(
    vectors: np.ndarray, positions: Sequence[int] | None = None, *, seed: int = 0, permutations: int = 1000
) -> PairAgreement:
    """Compare the given pairing (the diagonal) with shuffled, shifted, reversed and re-sorted ones.

    Parameters
    ----------
    vectors
        ``(n, n, C)`` from `pair_vectors`, slices in the order of the stack; n ≥ `MIN_MASKS`.
    positions
        Slice numbers ``(n,)``, needed to undo a text order; default 0 … n-1.
    seed, permutations
        Of the shuffled pairings.
    """
    n = len(vectors)
    if n < MIN_MASKS:
        raise ValueError(f"at least {MIN_MASKS} masks are needed to judge a pairing, got {n}")
    positions = range(n) if positions is None else positions
    white, folds, every = _whiten(vectors), _folds(n), np.arange(n)
    given = float(_agreement(white[every, every], folds))
    rng = np.random.default_rng(np.random.SeedSequence([seed, n]))
    null = np.empty(permutations)
    for start in range(0, permutations, 64):  # bounded memory: 64 pairings at a time
        orders = np.stack([rng.permutation(n) for _ in range(min(64, permutations - start))])
        null[start : start + len(orders)] = _agreement(white[every[None], orders], folds)
    floor = float(np.quantile(null, 0.99))
    best: tuple[float, str | None, float] = (-np.inf, None, 0.0)
    for name, (images, masks) in _alternatives(positions).items():
        order = np.argsort(images, kind="stable")
        images, masks = images[order], masks[order]
        value = float(_agreement(white[images, masks], folds[images]))
        same = float(_agreement(white[images, images], folds[images]))
        # Neither a part of the stack where the masks say little nor a weak given pairing may make a weak
        # alternative look strong.
        ratio = value / max(same, given, floor, 1e-9)
        if ratio > best[0]:
            best = (ratio, name, value)
    scores = _scores(white, folds)
    own = np.diag(scores)
    winner = scores.argmax(axis=1)
    typical = max(float(np.median(own)), 1.0)
    return PairAgreement(
        n=n,
        agreement=_signed_root(given),
        effect=float((given - null.mean()) / (null.std() + 1e-12)),
        p_value=float((1 + np.sum(null >= given - 1e-12)) / (1 + permutations)),
        shuffled_mean=float(null.mean()),
        shuffled_sd=float(null.std()),
        own_best_share=float(np.mean(winner == every)),
        alternative=best[1],
        alternative_agreement=_signed_root(best[2]),
        alternative_ratio=float(best[0]) if best[1] else 0.0,
        best_offset=tuple(int(j - i) for i, j in enumerate(winner)),
        beaten=tuple(bool(b) for b in scores.max(axis=1) - own > BEATEN_BY * typical),
    )
