"""Whether what was trained beats what was not: results of any task, paired on the same units."""
