"""What every folder may use: plain data, errors, fields and their bounds, seeds, hashes of code, versions of kinds, processes and ranks.

Nothing here imports another folder. torch stays in `processes`, so that all else can be read without it.
"""
