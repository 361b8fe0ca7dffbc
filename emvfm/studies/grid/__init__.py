"""Studies from one file: a grid of runs with a question and a decision rule, planned, run, and summed up."""
