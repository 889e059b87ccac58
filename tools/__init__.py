"""The command-line tools; installed as the package ``mos_tools``. What all of them do first."""

import os
import sys

# Read when torch is loaded: threads that wait sleep, and leave the cores to loader workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import fastreid_mos  # noqa: F401
except Exception as error:  # fast-reid is missing: the message has the command that installs it
    if type(error).__name__ != "MOSError":
        raise
    sys.exit(f"error: {error}")


def mos() -> int:
    """The program ``mos``."""
    from fastreid_mos.commands import main

    return main()
