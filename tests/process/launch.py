"""`puerta-master` with the fake roles and shortened waits: `python -m tests.process.launch -c FILE`."""

import json
import os
import sys

from puerta.cli import main
from puerta.process.timing import Timing

ENTRIES = {"worker": "tests.process.fakes:worker", "supervisor": "tests.process.fakes:supervisor"}

if __name__ == "__main__":
    sys.exit(main(entries=ENTRIES, timing=Timing(**json.loads(os.environ.get("FAKE_TIMING", "{}")))))
