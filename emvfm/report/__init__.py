"""Figures and the self-contained HTML report, from result files only."""
