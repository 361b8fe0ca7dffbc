"""Domain analysis: pure functions over arrays; no files, no torch."""
