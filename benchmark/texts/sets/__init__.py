"""The field's forget sets as memories: one small file per set maps its own columns to memories, roles and retain text.

`named` finds a set by what a suite says, `loading` reads rows from the hub or a local copy. Nothing of a set is shipped here.
"""
