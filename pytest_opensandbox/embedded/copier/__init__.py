"""Copies what a sandbox wrote: a program of its own, since what it reads is hostile and may change while it reads.

It goes from a directory that it holds to a name in it, one name at a time, never through a symbolic link and never
into another mount, and gives up where there is too much. Before it reads anything it enters the user namespace around
the sandbox, where it may read what the sandbox made unreadable, and loses the rights it had on the rest of the machine.

The folder is self-contained like the agent's: hence relative imports only, and nothing but the standard library.
"""
