"""Server processes that a run starts: the embedded server, and opensandbox-server on a Docker engine.

Requests to a server belong in ``client``.
"""
