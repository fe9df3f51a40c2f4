"""The runner itself, started on this machine: what it reports, and where, when its output has no space."""

import base64
import os
import re
import shutil
import signal
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import pytest

from pytest_opensandbox.sandbox.runner_protocol import VARIABLE, Invocation, Report

NONCE = "0123456789abcdef"
SPILLED = Path(f"/dev/shm/.opensandbox-report-{NONCE}")
EMULATORS = {"x86_64": [], "aarch64": ["qemu-aarch64-static"]}


@pytest.fixture(scope="module", params=sorted(EMULATORS))
def program(request, tmp_path_factory):
    """The words that start the runner of a machine."""
    emulator = EMULATORS[request.param] if os.uname().machine != request.param else []
    if emulator and not shutil.which(emulator[0]):
        pytest.skip(f"{emulator[0]}, which runs programs of that machine, is not installed")
    path = tmp_path_factory.mktemp("runner") / "runner"
    path.write_bytes(files("pytest_opensandbox.runner").joinpath(f"program-{request.param}").read_bytes())
    path.chmod(0o755)
    return [*emulator, path]


def environment(command, output_path="", **how):
    invocation = Invocation(command=command, **{"max_bytes": 1_000_000, **how})
    request = invocation.request(NONCE, "", output_path=output_path, makes_workspace=False)
    return {"PATH": os.environ["PATH"], VARIABLE: base64.b64encode(request).decode()}


def read(text, **how):
    report = Report(NONCE, Invocation(command="x", **{"max_bytes": 1_000_000, **how}))
    for line in text.decode().splitlines():
        report.add_line(line)
    return report


def test_a_command_is_reported_with_both_streams_and_its_status(program):
    done = subprocess.run(program, env=environment("echo out; echo err >&2; exit 7"), capture_output=True, check=True)

    report = read(done.stdout)
    assert (report.stdout.content(), report.stderr.content()) == (b"out\n", b"err\n")
    assert (report.ending.exit_code, report.is_whole, done.stderr) == (7, True, b"")


def test_a_report_without_space_lies_in_memory(program):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(program, env=environment("seq 1000; exit 7"), stdout=full, check=False)

    report = read(SPILLED.read_bytes())
    SPILLED.unlink()
    assert (done.returncode, report.ending.exit_code, report.is_whole) == (98, 7, True)
    assert report.stdout.content() == b"".join(b"%d\n" % number for number in range(1, 1001))


def test_a_report_without_any_space_says_so_by_the_exit_code(program):
    SPILLED.mkdir()
    try:
        with open("/dev/full", "wb") as full:
            done = subprocess.run(program, env=environment("true"), stdout=full, check=False)
    finally:
        SPILLED.rmdir()

    assert done.returncode == 97


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_report_has_its_space_before_the_command_fills_the_disk(program, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=True)
    try:
        with open(tmp_path / "out", "w+b") as output:
            command = f"head -c 10M /dev/zero >{tmp_path}/fill; seq 2000; exit 7"
            done = subprocess.run(program, env=environment(command), stdout=output, stderr=subprocess.PIPE, check=False)
            output.seek(0)
            report = read(output.read())
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    assert (done.returncode, report.ending.exit_code, report.is_whole) == (0, 7, True)
    assert b"No space left" in report.stderr.content()


def read_with_files(text, output_path, **how):
    report = read(text, **how)
    for word, stream in report.files:
        stream.add_file([Path(f"{output_path}{word}").read_bytes()])
    return report


def numbers(last):
    return b"".join(b"%d\n" % number for number in range(1, last + 1))


@pytest.mark.parametrize("most", [100_000, 150_000, 1_000_000])
def test_long_output_lies_in_a_file_for_each_stream(program, tmp_path, most):
    command = "seq 40000; seq 50000 >&2; seq 40001 50000; exit 7"
    path = f"{tmp_path}/long-"
    done = subprocess.run(program, env=environment(command, path, max_bytes=most), capture_output=True, check=True)

    report = read_with_files(done.stdout, path, max_bytes=most)
    content = numbers(50_000)
    kept = content if len(content) <= most else content[: most - most // 2] + content[-(most // 2) :]
    assert (report.stdout.received, report.stderr.received) == (len(kept), len(kept))
    assert (report.ending.exit_code, report.is_whole, report.truncated) == (7, True, len(content) > most)
    if not report.truncated:
        assert report.stdout.content() == report.stderr.content() == content
    assert len(done.stdout) < 300_000
    assert {oct(file.stat().st_mode) for file in tmp_path.iterdir()} == {"0o100600"}


@pytest.mark.parametrize("place", ["missing/long-", "taken-"])
def test_without_a_file_all_lies_in_the_report(program, tmp_path, place):
    (tmp_path / "taken-out").write_text("another's")
    done = subprocess.run(program, env=environment("seq 50000", f"{tmp_path}/{place}"), capture_output=True, check=True)

    report = read(done.stdout)
    assert (report.stdout.content(), report.files, report.is_whole) == (numbers(50_000), [], True)
    assert (tmp_path / "taken-out").read_text() == "another's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_output_goes_on_in_lines_where_the_file_takes_no_more(program, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        environ = environment("seq 50000", f"{tmp_path}/long-")
        done = subprocess.run(program, env=environ, capture_output=True, check=True)
        report = read_with_files(done.stdout, f"{tmp_path}/long-")
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    assert (report.stdout.content(), report.is_whole) == (numbers(50_000), True)


def test_a_limit_of_the_size_of_files_ends_only_the_file(program, tmp_path):
    limited = ["prlimit", "--fsize=200000", *map(str, program)]
    environ = environment("seq 70000; exit 7", f"{tmp_path}/long-")
    done = subprocess.run(limited, env=environ, capture_output=True, check=True)

    report = read_with_files(done.stdout, f"{tmp_path}/long-")
    assert (tmp_path / "long-out").stat().st_size == 200_000
    assert (report.stdout.content(), report.ending.exit_code, report.is_whole) == (numbers(70_000), 7, True)


def test_a_report_whose_file_was_removed_is_found_by_its_name(program, tmp_path):
    output = tmp_path / "gone" / "1.stdout"
    output.parent.mkdir()
    command = f"echo first; sleep 0.2; rm -r {output.parent}; echo second"

    with output.open("w+b") as file:
        subprocess.run(program, env=environment(command), stdout=file, check=True)

    assert read(output.read_bytes()).stdout.content() == b"first\nsecond\n"


def test_a_request_in_a_file_is_removed_before_the_command_begins(program, tmp_path):
    file = tmp_path / "request"
    invocation = Invocation(command=["ls", str(tmp_path)], max_bytes=100, stdin=bytes(200_000))
    file.write_bytes(invocation.request(NONCE, "", makes_workspace=False))

    done = subprocess.run(
        program, env={"PATH": os.environ["PATH"], VARIABLE: f"@{file}"}, capture_output=True, check=True
    )

    assert (read(done.stdout).stdout.content(), file.exists()) == (b"", False)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("!", id="no base64"),
        pytest.param("@/no/such/file", id="a file that is not there"),
        pytest.param(base64.b64encode(b"v1:2").decode(), id="another version"),
        pytest.param(base64.b64encode(b"v1:1k3:run?1:x").decode(), id="an unknown field"),
        pytest.param(base64.b64encode(b"v1:1k3:runs9:short").decode(), id="a field that is too short"),
        pytest.param(base64.b64encode(b"v1:1t1:x").decode(), id="letters for a number"),
        pytest.param(base64.b64encode(b"v1:1k3:run").decode(), id="nothing to run"),
        pytest.param(base64.b64encode(b"v1:1s99999999999999999999:x").decode(), id="a length beyond all"),
    ],
)
def test_a_request_that_cannot_be_read_runs_nothing(program, value):
    done = subprocess.run(program, env={VARIABLE: value}, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (96, b"")
    assert b"no readable request" in done.stderr


def test_an_interrupt_ends_the_command_and_is_reported(program):
    command = "trap 'echo bye; exit 3' TERM; echo begun; sleep 30 & wait"
    with subprocess.Popen(program, env=environment(command), stdout=subprocess.PIPE) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        report = read(running.stdout.read())

    assert (report.stdout.content(), report.ending.exit_code) == (b"bye\n", 3)


def test_a_command_that_ignores_an_interrupt_is_killed_soon(program):
    with subprocess.Popen(
        program, env=environment("trap '' TERM; echo begun; sleep 30"), stdout=subprocess.PIPE
    ) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        report = read(running.stdout.read())

    assert (report.ending.exit_code, report.ending.timed_out) == (-9, False)


def test_a_runner_that_is_killed_takes_its_command_along(program):
    with subprocess.Popen(program, env=environment("echo $$; exec sleep 33"), stdout=subprocess.PIPE) as running:
        pid = int(base64.b64decode(running.stdout.readline().split()[3]))
        running.kill()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        time.sleep(0.02)

    assert not Path(f"/proc/{pid}/exe").exists() or "sleep" not in os.readlink(f"/proc/{pid}/exe")


def test_it_stays_small_while_the_output_does_not(program):
    command = "head -c 300M /dev/zero; grep VmHWM /proc/$PPID/status >&2"

    done = subprocess.run(program, env=environment(command, max_bytes=2_000_000), capture_output=True, check=True)

    kilobytes = int(re.search(rb"(\d+) kB", read(done.stdout, max_bytes=2_000_000).stderr.content())[1])
    assert kilobytes < (8_000 if len(program) == 1 else 100_000)
