"""The handle that a test holds: commands, files, and the sandbox's life from create to delete.

Single API operations belong in ``client``; which sandbox a test gets belongs in ``provisioning``.
"""
