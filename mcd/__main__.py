"""`python -m mcd`, the same as the `mcd` command."""

import sys

from mcd.cli.main import main

sys.exit(main())
