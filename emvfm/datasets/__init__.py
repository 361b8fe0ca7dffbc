"""Datasets: catalog, download, pairing, composing, auditing, splits, image readers, the phantom."""
