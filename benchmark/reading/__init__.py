"""Matched lengths and token readings off forward passes, and looking at a model while it trains.

What is asked comes as probes: no attack is known here, and nothing is graded beyond lengths.
"""
