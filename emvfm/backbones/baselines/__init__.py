"""Baselines that are backbones: what pixels, chance and the arrangement of cells give without any network."""
