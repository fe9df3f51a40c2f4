"""What the user sees: header, failure sections, summary and terminal.

The records behind them belong in ``sandbox``.
"""
