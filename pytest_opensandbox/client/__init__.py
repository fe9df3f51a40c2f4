"""The typed client for the lifecycle API and the agent's API, usable without pytest.

How bytes travel belongs in ``transport``; what a test holds belongs in ``sandbox``.
"""
