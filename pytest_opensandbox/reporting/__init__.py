"""What the user sees: header, failure sections, summary and terminal.

What is counted and recorded belongs in ``sandbox``.
"""
