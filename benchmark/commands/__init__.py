"""What the command line shows and asks: sub-commands, progress, Ctrl-C, new files, formula cards.

Each is a few lines over the folders that do the work; nothing that a result depends on may stand here.
"""
