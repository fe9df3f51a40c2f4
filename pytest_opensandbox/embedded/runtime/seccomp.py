"""The filter for system calls that each sandbox gets: a seccomp program for x86-64 and 64-bit ARM.

It refuses what the default profile of Docker refuses without a capability, whatever capabilities a sandbox has, and
system calls that are newer than Linux 6.7. Source of the numbers: arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h of Linux. Source of the choice: seccomp/default.json of github.com/moby/profiles.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterator, Sequence

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The processors for which there is a filter, with the kernel's numbers for their own system calls."""

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
"""The kernel's action for a system call: serve it, return the error in the lower half, or kill the caller."""

# After these, for both processors: what is newer has no fallback that needs it, and has not been looked at.
_NEWEST = 456
_SKIPPED = 0xFFFFFFFF  # a tracer sets this for a call that the kernel is to skip
# Name, and numbers on x86-64 and on 64-bit ARM; None where there is no such call.
_NOT_PERMITTED = (
    # Mounts and namespaces.
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fspick", 433, 433),
    ("mount_setattr", 442, 442),
    ("setns", 308, 268),
    ("sethostname", 170, 161),
    ("setdomainname", 171, 162),
    # What user namespaces do not separate: keyrings, handles of files, events of other processes and file systems.
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("keyctl", 250, 219),
    ("open_by_handle_at", 304, 265),
    ("fanotify_init", 300, 262),
    ("perf_event_open", 298, 241),
    ("kcmp", 312, 272),
    # Programs in the kernel, and a way to stop it in the middle of a copy.
    ("bpf", 321, 280),
    ("userfaultfd", 323, 282),
    # The machine.
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("reboot", 169, 142),
    ("swapon", 167, 224),
    ("swapoff", 168, 225),
    ("settimeofday", 164, 170),
    ("clock_settime", 227, 112),
    ("syslog", 103, 116),
    ("acct", 163, 89),
    ("quotactl", 179, 60),
    ("quotactl_fd", 443, 443),
    ("vhangup", 153, 58),
    ("iopl", 172, None),
    ("ioperm", 173, None),
    # Where memory lies, and calls that only old programs made.
    ("get_mempolicy", 239, 236),
    ("set_mempolicy", 238, 237),
    ("set_mempolicy_home_node", 450, 450),
    ("mbind", 237, 235),
    ("migrate_pages", 256, 238),
    ("move_pages", 279, 239),
    ("lookup_dcookie", 212, 18),
    ("uselib", 134, None),
    ("ustat", 136, None),
    ("sysfs", 139, None),
)
# Libraries know kernels without these, and fall back: clone3 takes its flags by a pointer that no filter can follow.
_NOT_KNOWN = (
    ("clone3", 435, 435),
    ("io_uring_setup", 425, 425),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
)
_CLONE, _UNSHARE = (56, 220), (272, 97)
_SOCKET, _SOCKETPAIR = (41, 198), (53, 199)
_IOCTL, _PERSONALITY = (16, 29), (135, 92)
_FCNTL, _PRCTL = (72, 25), (157, 167)

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; NEWTIME has its bit in unshare only.
_NEW_NAMESPACES, _NEW_TIME = 0x7E020000, 0x80
_TYPE_INTO_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_PERSONALITIES = 0x0060008  # ADDR_NO_RANDOMIZE for debuggers, UNAME26, PER_LINUX32
_ASKS_FOR_PERSONALITY = 0xFFFFFFFF

# Calls that would wake up a paused process: they request a signal for input, or for the parent's end. When
# a process is killed, the kernel sends SIGCONT to those whose job control ends with it.
_F_SETSIG, _PR_SET_PDEATHSIG = 10, 1
_SIGKILL, _SIGCONT = 9, 18

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_OFFSET, _MACHINE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_INSTRUCTION = struct.Struct("<HBBI")
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]


def filter_program(machine: str | None = None) -> bytes:
    """Return the filter in the binary form of the kernel, b"" where there is none.

    Args:
        machine: the processor; None for this machine's, and then the kernel must know filters as well.
    """
    if machine is None:
        machine = platform.machine() if _is_64_bit() and _is_known_to_the_kernel() else ""
    if machine not in MACHINES:
        return b""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in _instructions(machine))


def _is_64_bit() -> bool:
    """Say whether programs here use the system calls that the filter allows: 32-bit ones have others."""
    return sys.maxsize > 1 << 32


def _is_known_to_the_kernel() -> bool:
    """Ask the kernel to load a filter from a null pointer; a kernel with filters reports the bad address."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None) != 0 and ctypes.get_errno() == errno.EFAULT


def _instructions(machine: str) -> Iterator[Instruction]:
    """Yield the program; each part leaves the call's number in the accumulator, or returns."""
    column = list(MACHINES).index(machine)
    yield (_LOAD, 0, 0, _MACHINE_OFFSET)
    yield (_EQUAL, 1, 0, MACHINES[machine])  # or the numbers mean other calls: those of 32-bit programs
    yield (_RETURN, 0, 0, KILL)
    yield (_LOAD, 0, 0, _NUMBER_OFFSET)
    yield from _when(_SKIPPED, [(_RETURN, 0, 0, ALLOW)])
    yield (_GREATER, 0, 1, _NEWEST)  # the calls of x32 as well: they have bit 30 set
    yield _refusal(errno.ENOSYS)
    for code, calls in ((errno.EPERM, _NOT_PERMITTED), (errno.ENOSYS, _NOT_KNOWN)):
        for call in calls:
            number = call[1 + column]
            if isinstance(number, int):
                yield from _when(number, [_refusal(code)])
    yield from _when(_CLONE[column], _flags(_NEW_NAMESPACES))
    yield from _when(_UNSHARE[column], _flags(_NEW_NAMESPACES | _NEW_TIME))
    yield from _when(_IOCTL[column], _values(1, _TYPE_INTO_TERMINAL, _refusal(errno.EPERM), _allowance()))
    yield from _when(_PERSONALITY[column], _personalities())
    yield from _when(_FCNTL[column], _both(1, _F_SETSIG, 2, (_SIGKILL, _SIGCONT)))
    yield from _when(_PRCTL[column], _both(0, _PR_SET_PDEATHSIG, 1, (_SIGCONT,)))
    for numbers in (_SOCKET, _SOCKETPAIR):
        yield from _when(numbers[column], _families())
    yield _allowance()


def _when(number: int, then: Sequence[Instruction]) -> Iterator[Instruction]:
    """Yield the instructions for one system call; they must return."""
    yield (_EQUAL, 0, len(then), number)
    yield from then


def _flags(forbidden: int) -> list[Instruction]:
    """Return instructions that refuse a call with one of these flags in its first argument."""
    return [_argument(0), (_ANY_BIT, 0, 1, forbidden), _refusal(errno.EPERM), _allowance()]


def _values(index: int, values: Sequence[int], match: Instruction, other: Instruction) -> list[Instruction]:
    """Return instructions with one action for these values of an argument, and another one for all others."""
    tests = [(_EQUAL, len(values) - position, 0, value) for position, value in enumerate(values)]
    return [_argument(index), *tests, other, match]


def _both(index: int, value: int, other: int, its_values: Sequence[int]) -> list[Instruction]:
    """Return instructions that refuse a call if one argument has this value, and another one of these."""
    second = _values(other, its_values, _refusal(errno.EINVAL), _allowance())
    return [_argument(index), (_EQUAL, 1, 0, value), _allowance(), *second]


def _personalities() -> list[Instruction]:
    others = [(_ANY_BIT, 0, 1, ~_PERSONALITIES & 0xFFFFFFFF), _refusal(errno.EPERM), _allowance()]
    return [_argument(0), (_EQUAL, len(others) - 1, 0, _ASKS_FOR_PERSONALITY), *others]


def _families() -> list[Instruction]:
    """Return instructions that allow sockets of the sandbox's network, and netlink for its interfaces."""
    netlink = _values(2, [_NETLINK_ROUTE], _allowance(), _refusal(errno.EPROTONOSUPPORT))
    others = _values(0, [_UNIX, _INET, _INET6], _allowance(), _refusal(errno.EAFNOSUPPORT))
    return [_argument(0), (_EQUAL, 0, len(netlink), _NETLINK), *netlink, *others]


def _argument(index: int) -> Instruction:
    """Return the instruction that loads the lower half of an argument: the kernel uses 32 bits of all these."""
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index)


def _refusal(code: int) -> Instruction:
    return (_RETURN, 0, 0, REFUSE | code)


def _allowance() -> Instruction:
    return (_RETURN, 0, 0, ALLOW)
