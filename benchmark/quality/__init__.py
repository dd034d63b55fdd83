"""What forgetting cost: lm-eval on local and foreign tasks, and signs of life on ordinary text.

No memory is asked about here; `reading` does that.
"""
