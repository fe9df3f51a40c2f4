"""The commands of ``python -m pytest_opensandbox``.

What a command does belongs in the packages that it uses, such as ``cleanup``.
"""
