"""What representations learn: retrieval, known relations, corrections, similarity and geometry."""
