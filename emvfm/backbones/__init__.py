"""Backbones: specs, adapters for timm and open_clip, weights, preprocessing, LoRA."""
