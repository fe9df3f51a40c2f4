"""What a sandbox is made of: bubblewrap, namespaces, processes, limits and directories.

Nothing here knows HTTP.
"""
