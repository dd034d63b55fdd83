"""The one training loop on DeepSpeed, and what it is given: batches, losses, recipe, adapters, a place to resume from.

What is trained on which texts is decided by those who call it. It imports neither reading nor methods.
"""
