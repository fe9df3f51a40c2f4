"""The options, their parsing, and the frozen ``Settings``.

What the options do belongs in the package that uses them.
"""
