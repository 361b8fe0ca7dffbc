"""Protein localisation on frozen embeddings: pure functions over arrays; torch only in the heads."""
