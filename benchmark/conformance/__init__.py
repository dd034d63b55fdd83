"""Does a plug-in of one's own keep the rules? What `palimpsest check` tries on small models.

It uses what runs use, and nothing that runs use may depend on it.
"""
