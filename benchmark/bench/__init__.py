"""`make bench`: timings as ratios against a named alternative in the same run. Nothing else imports it."""
