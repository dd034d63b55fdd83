"""Statistics, flags, tables, figures and pages, made of records and qualities.

No model is run here: of the benchmark it imports `common` and `scoring` alone, and torch never.
"""
