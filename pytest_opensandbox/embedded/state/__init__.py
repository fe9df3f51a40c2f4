"""The sandboxes and snapshots that exist, and their states.

Processes and directories belong in ``runtime``; requests belong in ``api``.
"""
