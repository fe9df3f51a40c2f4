"""``python -m pytest_opensandbox``: the commands of ``cli``."""

import sys

from pytest_opensandbox.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
