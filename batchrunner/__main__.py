"""`python -m batchrunner` is `batchrunner`."""

import sys

from batchrunner.cli import main

if __name__ == "__main__":
    sys.exit(main())
