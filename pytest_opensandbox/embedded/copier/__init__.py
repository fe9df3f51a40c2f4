"""The program that copies what a sandbox wrote. What it reads is hostile and may change meanwhile.

It goes from an open directory to a name in it, one name at a time, never through a symbolic link and never into
another mount, and it has limits. Before it reads anything, it enters the user namespace around the sandbox. There it
may read what the sandbox made unreadable, and it loses its rights on the rest of the machine.

The folder is self-contained like the agent's: hence relative imports only, and nothing but the standard library.
"""
