"""Write a simulated HOSS data set. See ``--help``."""

import sys

from fastreid_mos.sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
