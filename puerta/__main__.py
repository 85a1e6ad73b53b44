"""`python -m puerta`: the same as `puerta-master`."""

import sys

from puerta.cli import main

sys.exit(main())
