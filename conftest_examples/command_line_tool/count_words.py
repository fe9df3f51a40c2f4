"""A small tool to be tested: it counts the words of a file and writes a report."""

import pathlib
import sys


def main() -> None:
    source, report = map(pathlib.Path, sys.argv[1:])
    words = source.read_text().split()
    report.write_text(f"{len(words)} words, {len(set(words))} different\n")


if __name__ == "__main__":
    main()
