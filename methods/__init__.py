"""One file per unlearning method; the folder is the registry.

A file imports `benchmark.method` and nothing else of ours: neither another method nor the rest of the benchmark.
"""
