"""The board: from entries alone, a page of tables in Markdown and a static site. Nothing here reads results, runs or stores.

Whatever an entry says was written by strangers: it is text to be escaped, never markup, path or code.
"""
