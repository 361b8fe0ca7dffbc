"""The command line: parse, build a configuration, call one function, render; no numerics, no torch."""
