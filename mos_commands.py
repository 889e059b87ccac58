"""The installed commands ``mos-train`` and ``mos-train-bbdm``.

Not in the package: OpenMP reads its settings while torch is loaded, which importing the package does, and an import
must not change the environment of other programs. Threads that wait are to sleep: where loader workers share the cores
with the computation, spinning took half of its time.
"""

import os


def train() -> int:
    """``mos-train``."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fastreid_mos.cli import train as program

    return program()


def train_bbdm() -> int:
    """``mos-train-bbdm``."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from fastreid_mos.bridge.cli import main

    return main()
