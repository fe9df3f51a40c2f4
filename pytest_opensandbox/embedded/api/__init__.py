"""HTTP in and out: routes, validation, callers and the proxy to ports in a sandbox.

What exists and what runs belongs in ``state`` and ``runtime``.
"""
