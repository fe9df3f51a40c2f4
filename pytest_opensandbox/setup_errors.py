"""What goes wrong while a sandbox is prepared for others: its setup, or the snapshot of it.

SandboxError
├── SnapshotFailedError            never became Ready: snapshot_id, state, reason, message
└── CommandError
    └── SetupError                 the setup did not exit with 0: source, repeated
"""

from __future__ import annotations

from pytest_opensandbox.errors import Command, CommandError, SandboxError

TIME_LIMIT = "its time limit"
"""How the words end that say of a setup that its time was up."""

_ONCE = ", and is not run again in this run: "
_BY_HAND = 'try the command in a sandbox without a setup (setup="")'
_TIME = "give it more time with --opensandbox-setup-timeout"
_MEMORY = "it may have run out of memory: raise the limit with resources= or --opensandbox-resources"
_PROGRAM = "the image lacks the program: install it in the setup, or choose an image that has it"
_FILES = (
    "give it the file that it misses with put=, and mind that each command has a shell of its own, so that the `cd` of"
    " one is lost for the next: join them with &&"
)
_EXECUTABLE = "make the program executable with chmod, or name its interpreter before it"
_BY_EXIT_CODE = {-9: _MEMORY, 137: _MEMORY, 126: _EXECUTABLE, 127: _PROGRAM}
_STORY_TOLD = " before: see the first error about it in this run"


class SnapshotFailedError(SandboxError):
    """A snapshot was begun and did not become ready.

    Attributes:
        snapshot_id: the server's id, "" where it did not begin.
        state: ``Failed``, or the last one seen when its time was up.
        reason, message: the server's word, such as ``snapshot_runtime_failed``, and its sentence; "" for none.
    """

    def __init__(
        self, *, sandbox_id: str, snapshot_id: str = "", state: str = "Failed", reason: str = "", message: str = ""
    ) -> None:
        self.snapshot_id, self.state, self.reason, self.message = snapshot_id, state, reason, message
        why = ": ".join(part for part in (reason, message) if part) or "the server gives no reason"
        text = (
            f"snapshot {snapshot_id or '(without an id)'} of sandbox {sandbox_id} is {state}, not Ready ({why}):"
            " look at the server's log, and at the room on its disk"
        )
        super().__init__(text, sandbox_id=sandbox_id)


class SetupError(CommandError):
    """A setup did not exit with 0, so that there is no sandbox for those who ask for it; it is not run again.

    Attributes:
        source: the image, snapshot or pool that the sandbox was made from.
        why: how the command ended, in words.
        repeated: whether the story was told before, so that the message leaves out the output.
    """

    def __init__(
        self,
        command: Command,
        *,
        exit_code: int,
        stdout: str = "",
        stderr: str = "",
        sandbox_id: str = "",
        source: str = "",
        why: str = "",
        repeated: bool = False,
    ) -> None:
        self.source, self.why, self.repeated = source, why or f"exited with {exit_code}", repeated
        end = _STORY_TOLD if repeated else _ONCE + _advice(self.why, exit_code, stderr)
        super().__init__(
            command,
            exit_code=exit_code,
            stdout="" if repeated else stdout,
            stderr="" if repeated else stderr,
            sandbox_id=sandbox_id,
            outcome=f"{self.why} as setup of the sandboxes from {source}{end}",
        )
        self.stdout, self.stderr = stdout, stderr


def _advice(why: str, exit_code: int, stderr: str) -> str:
    """Return the one thing that helps against this failure, as far as it shows."""
    if why.endswith(TIME_LIMIT):
        return _TIME
    if "no such file or directory" in stderr.lower():
        return _FILES
    return _BY_EXIT_CODE.get(exit_code, _BY_HAND)
