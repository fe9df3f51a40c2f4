"""The options, their parsing, and the frozen ``Settings``.

The effect of an option belongs in the package that uses it.
"""
