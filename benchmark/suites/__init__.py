"""What a user asks for: suites with typed fields, tracks with tuned fields, what these were frozen with, and the spaces of tuning.

Nothing here computes, opens a model or imports torch.
"""
