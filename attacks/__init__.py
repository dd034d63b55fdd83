"""One file per attack; the folder is the registry.

A file imports `benchmark.attack` and nothing else of ours. What several attacks share lies in `benchmark/attack_tools`.
"""
