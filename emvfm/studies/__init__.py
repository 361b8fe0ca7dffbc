"""Studies: several runs with one question; they may use everything but the command line."""
