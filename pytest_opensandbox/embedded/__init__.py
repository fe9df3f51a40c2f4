"""A small OpenSandbox on this machine: ``python -m pytest_opensandbox.embedded`` starts it.

Nothing here imports the client side, nor the other way round: they meet over a socket.
"""
