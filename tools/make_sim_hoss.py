#!/usr/bin/env python
"""Write a simulated HOSS data set. See ``--help``."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, see train_net.py
if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid_mos.sim.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
