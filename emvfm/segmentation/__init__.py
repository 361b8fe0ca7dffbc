"""Segmentation: heads, losses, metrics, training, evaluation, checkpoints."""
