"""The texts: corpus and memories, near-duplicates, tokenizers, the injection stream, and which memories are asked about.

No model is opened here.
"""
