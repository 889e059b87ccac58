#!/usr/bin/env python
"""Export trained weights. See ``--help``."""

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tools  # noqa: F401  what all of them do first

from fastreid_mos.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
