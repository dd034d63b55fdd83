"""Submissions: one row in one file, and the levels at which somebody who does not trust its author can look at it.

What strangers sent is read here and nowhere else, and none of their code is run below the level `retrain`. Tables belong in `leaderboard`.
"""
