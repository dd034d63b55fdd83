"""From records to thresholds, recovered memories and leak. Pure: it imports `common` alone, and knows no model, store or suite.

Intervals, tests and tables belong in `leaderboard`.
"""
