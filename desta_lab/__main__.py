"""`python -m desta_lab …` is `desta_lab.cli.main`."""

import sys

from desta_lab.cli import main

sys.exit(main())
