"""Finds and deletes what runs left on a server or an engine.

Closing a sandbox that a test holds belongs in ``sandbox``.
"""
