"""All attacks of a suite on one model: probes are gathered, asked in one pass and answered; searches and changed models one by one.

Which model, which memories and where answers are kept is decided in `running`.
"""
