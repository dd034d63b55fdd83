"""A model as the benchmark sees it: opened whole or refused, its logits, weights, blocks and precision, and saved again.

Nothing here trains a model or reads lengths off it.
"""
