"""HTTP in and out: routes, validation, authentication and the proxy to ports in a sandbox.

What exists and what runs belongs in ``state`` and ``runtime``.
"""
