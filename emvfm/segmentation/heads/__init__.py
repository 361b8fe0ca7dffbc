"""Segmentation heads: small networks that turn the token maps of a frozen or adapted ViT into class logits.

A head sees the concatenated tokens of the chosen layers, `(B, L * D, h, w)`, and answers at whatever stride
it reaches; :func:`logits_at` brings the answer to the size of the mask.
"""

from emvfm.segmentation.heads.registry import DEFAULT_HEAD, HEADS, build_head, count_parameters, logits_at

__all__ = ["DEFAULT_HEAD", "HEADS", "build_head", "count_parameters", "logits_at"]
