"""A suite bound to a store: its inputs, models and stages, who is asked, the plan and its execution, and results from finished stages.

Only here are stages made and keys known. What tables show is decided in `leaderboard`, what the terminal shows in `commands`.
"""
