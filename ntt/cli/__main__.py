"""`python -m ntt.cli` is the command `ntt`."""

import sys

from ntt.cli.main import main

sys.exit(main())
