#!/usr/bin/env python
"""Train or test: fast-reid's command line.

    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --resume
    python tools/train_net.py --config-file configs/HOSS/mos_vit.yml --eval-only MODEL.WEIGHTS model_final.pth

``--num-gpus N`` starts N processes, each on a GPU of its own, or with MODEL.DEVICE cpu on the CPU. KEY VALUE pairs
come last.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see mos_commands.py; before torch is loaded
    try:
        from fastreid_mos.cli import train
    except Exception as error:  # fast-reid missing: the message says which command installs it
        if type(error).__name__ != "MOSError":
            raise
        sys.exit(f"error: {error}")
    sys.exit(train())
