"""emvfm: vision foundation models on microscopy, from images to verdicts.

Images become embeddings once; everything else reads embeddings. See ``docs/architecture.md``.
"""

__version__ = "0.1.0"
