"""How a run obtains its sandboxes: requests, and setups that run once and are kept as snapshots.

The sandboxes themselves belong in ``sandbox``; fixtures belong in ``plugin``.
"""
