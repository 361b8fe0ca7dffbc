"""The command line: parse, build a configuration, call one function, render. No numerics, no torch at import."""
