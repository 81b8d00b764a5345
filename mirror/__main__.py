"""`python -m mirror` is the command `mirror`."""

import sys

from mirror.cli import main

sys.exit(main())
