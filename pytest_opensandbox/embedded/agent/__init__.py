"""The agent inside a sandbox: ExecD's HTTP API on the standard library, waitress and python-multipart.

The folder is self-contained on purpose: it is bound into a sandbox as a package of its own, without the rest of
the plugin. Hence relative imports only, and nothing but those two libraries.
"""
