"""`python -m desta_lab …` is `desta_lab.cli.main`."""

import sys

from desta_lab.cli import main

if __name__ == "__main__":  # a worker process imports this file, too
    sys.exit(main())
