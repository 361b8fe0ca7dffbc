"""Dataset x backbone -> store: the pipeline that overlaps reading, computing and writing."""
