"""The bases of attacks and what attacks share: rewordings, synonyms, optimised prompts, relearning, decoding.

A tool must serve several attacks or belong to a base; `benchmark.attack` hands all of it to plug-ins. Nothing here asks the battery.
"""
