"""Benchmarks: profiles in; a record, tables and figures out. One module a command."""
