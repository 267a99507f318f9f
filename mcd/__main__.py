"""`python -m mcd`, the same as the `mcd` command."""

import sys

from mcd.app.cli import main

sys.exit(main())
