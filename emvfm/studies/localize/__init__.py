"""Localisation of proteins: labels of rows predicted from profiles, for a grid of backbones and channels."""
