"""Tar archives for tests: entries of every type, and archives of them."""

import io
import tarfile


def entry(name, kind=tarfile.REGTYPE, link="", size=0, mode=0o644, **pax):
    """Return the header of an entry."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode, info.pax_headers = kind, link, size, mode, pax
    return info


def directory(name, mode=0o755):
    """Return the header of a directory."""
    return entry(name, tarfile.DIRTYPE, mode=mode)


def link(name, target):
    """Return the header of a symbolic link."""
    return entry(name, tarfile.SYMTYPE, target)


def hard_link(name, target):
    """Return the header of a hard link."""
    return entry(name, tarfile.LNKTYPE, target)


def padded(data):
    """Return data with zeros up to the end of its last block."""
    return data + bytes(-len(data) % 512)


def archive_of(*entries, content=b"from the sandbox"):
    """Return an archive in which every file has the same content."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for info in entries:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    data.seek(0)
    return data
