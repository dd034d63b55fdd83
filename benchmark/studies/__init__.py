"""One file per study: a published finding about memorisation, measured again. The folder is the registry, as for methods and attacks.

Shared tools of several studies lie in modules that begin with an underscore. Nothing outside imports a study; it is found by name.
"""
