"""HTTP to a server and to agents: requests, retries, deadlines, endpoints and errors.

What the routes and bodies mean belongs in ``client``.
"""
