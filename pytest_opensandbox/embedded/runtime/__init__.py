"""Sandboxes on this machine: bubblewrap, namespaces, processes, limits and directories.

Nothing here knows HTTP.
"""
