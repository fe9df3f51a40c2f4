"""The program that runs inside a sandbox: its Zig sources and, once it is built, the program for each machine.

Python code that talks to it belongs in ``sandbox/``.
"""
