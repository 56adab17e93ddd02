"""`python -m nnbackend` is the command `nnbackend`."""

import sys

from nnbackend.cli import main

if __name__ == "__main__":
    sys.exit(main())
