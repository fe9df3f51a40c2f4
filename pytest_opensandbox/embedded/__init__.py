"""A small OpenSandbox on this machine: ``python -m pytest_opensandbox.embedded`` starts it.

Nothing in this package imports the client side, nor the other way round: they meet over a socket.
"""

EXECD_PORT = 44772
TOKEN_HEADER = "X-EXECD-ACCESS-TOKEN"  # noqa: S105 - a header's name, not a token
