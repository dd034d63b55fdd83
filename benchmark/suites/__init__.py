"""What a user asks for: suites with typed fields, tracks with tuned fields and what they were frozen with, and the spaces that tuning searches.

Nothing here computes, opens a model or imports torch.
"""
