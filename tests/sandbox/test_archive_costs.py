"""The cost of hostile archives: no more steps and memory than an honest archive of the same size."""

import io
import sys
import tarfile
import tracemalloc
from contextlib import suppress
from itertools import count

import pytest

from pytest_opensandbox.errors import OpenSandboxError, ProtocolError, UnsafeArchiveError
from pytest_opensandbox.sandbox.archive_limits import ArchiveBudget
from pytest_opensandbox.sandbox.archives import extract_tree
from tests.sandbox.tars import entry, padded

pytestmark = pytest.mark.thorough

LIMIT = 10**9
END = bytes(1024)


def header(name, kind=tarfile.REGTYPE, link="", size=0, mode=0o644):
    return entry(name, kind, link, size, mode).tobuf(tarfile.GNU_FORMAT)


def extended(kind, data):
    return header("x", kind, size=len(data)) + padded(data)


def record(key, value):
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length += 1
    return f"{length} {key}={value}\n".encode()


def chained_links(n):
    return b"".join(header(f"l{i}", tarfile.SYMTYPE, f"l{i + 1}/" * 8 + ".") for i in range(n))


def links_that_climb(n):
    up = header("d", tarfile.DIRTYPE)
    return up + b"".join(header(f"l{i}", tarfile.SYMTYPE, "d/../" * 600 + "d") for i in range(n // 4))


def links_through_links(n):
    return b"".join(header(f"l{i}", tarfile.SYMTYPE, f"l{i + 1}/../l{i + 1}/..") for i in range(n))


def links_down_a_deep_tree(n):
    deep = "/".join("d" * 250)
    links = b"".join(
        extended(tarfile.GNUTYPE_LONGLINK, f"{deep}/{i}\0".encode()) + header(f"l{i}", tarfile.SYMTYPE)
        for i in range(n // 8)
    )
    return header(deep, tarfile.DIRTYPE) + links


def deep_names(n):
    return b"".join(header("/".join([f"d{i}", *["d" * 14] * 200]) + f"/f{i}") for i in range(n // 4))


def deep_names_turn_by_turn(n):
    deep = "/".join("d" * 200)
    return b"".join(header(f"{'ab'[i % 2]}/{deep}/f{i}") for i in range(n // 4))


def tiny_entries(n):
    return b"".join(header(f"f{i}", size=1) + padded(b"x") for i in range(n))


def one_name_again_and_again(n):
    return header("f") * n


def digits_in_pax(n):
    return extended(tarfile.XHDTYPE, b"1" * 100 * n + b" path=x\n") + header("f")


def digits_everywhere_in_pax(n):
    return extended(tarfile.XHDTYPE, record("GNU.sparse.size", "1" * 100 * n)) + header("f")


def records_in_pax(n):
    return extended(tarfile.XHDTYPE, record("comment", "c") * 10 * n) + header("f")


def global_records(n):
    first = extended(tarfile.XGLTYPE, b"".join(record(f"comment{i}", "c") for i in range(20 * n)))
    return first + tiny_entries(n)


def sparse_map(n):
    extents = ",".join(f"{2 * i},1" for i in range(20 * n))
    pax = record("GNU.sparse.size", str(40 * n)) + record("GNU.sparse.map", extents)
    return extended(tarfile.XHDTYPE, pax) + header("f", size=20 * n) + padded(b"x" * 20 * n)


def sparse_map_in_content(n):
    data = padded(f"{20 * n}\n".encode() + b"".join(b"%d\n1\n" % (2 * i) for i in range(20 * n))) + b"x" * 20 * n
    pax = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", str(40 * n))
    return extended(tarfile.XHDTYPE, pax) + header("f", size=len(data)) + padded(data)


def long_names(n):
    return b"".join(extended(tarfile.GNUTYPE_LONGNAME, b"%d/" % i + b"n" * 250 + b"\0") + header("x") for i in range(n))


FAMILIES = [
    chained_links,
    links_that_climb,
    links_through_links,
    links_down_a_deep_tree,
    deep_names,
    deep_names_turn_by_turn,
    tiny_entries,
    one_name_again_and_again,
    digits_in_pax,
    digits_everywhere_in_pax,
    records_in_pax,
    global_records,
    sparse_map,
    sparse_map_in_content,
    long_names,
]


def cost(data, target, links="skip"):
    """Return how many steps were counted, and how many functions were called."""
    (target / "of the user").mkdir(parents=True)  # so that each link is validated twice
    calls = count()
    budget = ArchiveBudget(LIMIT)
    sys.setprofile(lambda frame, event, argument: next(calls))
    try:
        with suppress(OpenSandboxError):
            extract_tree(io.BytesIO(data + END), target, budget, links=links)
    finally:
        sys.setprofile(None)
    return budget.steps, next(calls)


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_archive_costs_twice_the_steps(tmp_path, family):
    steps, calls = zip(*(cost(family(size), tmp_path / f"{size}") for size in (100, 200, 400)), strict=True)

    for smaller, larger in ((0, 1), (1, 2)):
        assert steps[larger] <= 2.2 * steps[smaller] + 50
        assert calls[larger] <= 2.2 * calls[smaller] + 500


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_of_an_archive_costs_a_bounded_number_of_steps(tmp_path, family):
    data = family(200)

    steps, _ = cost(data, tmp_path / "target")

    # A link's target of one block may name 256 directories, each of which is looked for in two trees.
    assert steps <= 1024 * (len(data) // 512 + 2)


@pytest.mark.parametrize(
    "family", [deep_names, deep_names_turn_by_turn, long_names, links_that_climb, sparse_map_in_content, global_records]
)
def test_memory_stays_small(tmp_path, family):
    n = 500
    data = io.BytesIO(family(n) + END)
    tracemalloc.start()

    with suppress(OpenSandboxError):
        extract_tree(data, tmp_path / "target", ArchiveBudget(LIMIT), links="skip")

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_names_that_are_kept_have_a_limit(tmp_path):
    data = io.BytesIO(links_through_links(2000) + END)
    budget = ArchiveBudget(LIMIT, max_name_bytes=100_000)

    with pytest.raises(UnsafeArchiveError, match="100,000 bytes of memory"):
        extract_tree(data, tmp_path / "target", budget, links="skip")

    assert list(tmp_path.iterdir()) == []


def test_names_that_stand_for_hundreds_of_directories_are_refused(tmp_path):
    deep = b"".join(
        extended(tarfile.GNUTYPE_LONGNAME, b"%d/" % i + b"a/" * 250 + b"x\0") + header("x") for i in range(60)
    )

    with pytest.raises(UnsafeArchiveError, match="directories that it does not list"):
        extract_tree(io.BytesIO(deep + END), tmp_path / "target", ArchiveBudget(LIMIT))

    assert list(tmp_path.iterdir()) == []


def test_directories_that_are_listed_may_be_many(tmp_path):
    names = [f"d{number % 2}/{number}" for number in range(12_000)]
    listed = b"".join(header(name, kind=tarfile.DIRTYPE, mode=0o755) for name in names)

    extract_tree(io.BytesIO(listed + END), tmp_path / "target", ArchiveBudget(LIMIT))

    assert sum(1 for path in tmp_path.glob("target/*/*")) == len(names)


def test_an_archive_that_takes_too_many_steps_is_refused(tmp_path):
    budget = ArchiveBudget(LIMIT, max_steps=1000)

    with pytest.raises(UnsafeArchiveError, match="more than 1,000 steps"):
        extract_tree(io.BytesIO(tiny_entries(2000) + END), tmp_path / "target", budget)

    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_takes_too_long_is_refused(tmp_path):
    seconds = count(0, 100)
    budget = ArchiveBudget(LIMIT, max_seconds=3, clock=lambda: next(seconds))

    with pytest.raises(UnsafeArchiveError, match="takes too long"):
        extract_tree(io.BytesIO(tiny_entries(10_000) + END), tmp_path / "target", budget)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", [digits_in_pax, digits_everywhere_in_pax])
def test_digits_without_end_are_no_number(tmp_path, family):
    with pytest.raises(ProtocolError, match="no complete tar"):
        extract_tree(io.BytesIO(family(1000) + END), tmp_path / "target", ArchiveBudget(LIMIT))


@pytest.mark.parametrize("family", [sparse_map, sparse_map_in_content])
def test_a_file_with_holes_has_its_content_in_its_place(tmp_path, family):
    extract_tree(io.BytesIO(family(10) + END), tmp_path / "target", ArchiveBudget(LIMIT))

    assert (tmp_path / "target" / "f").read_bytes() == b"x\0" * 200
