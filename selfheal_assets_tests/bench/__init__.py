"""Benchmarks and the crash test: programs that start real processes and count from the outside.

`make bench-serving`, `make crash-log` and `make bench-ingest` run them; docs/benchmarks.md says what each
measures. Each prints a table for people, and as its last line one line of JSON.
"""
