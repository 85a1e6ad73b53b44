"""Puerta: a pre-fork proxy in front of MongoDB sharded clusters and Redis Clusters."""

import os
import sys

__version__ = "0.1.0"

if os.environ.get("PUERTA_PURE", "") not in ("", "0"):
    # The compiled core and its sources share their names, and an extension module wins over the .py beside it.
    # Someone who asks for the uncompiled build gets it even where the extensions are built.
    from puerta import pure

    sys.meta_path.insert(0, pure.SourceFinder())
