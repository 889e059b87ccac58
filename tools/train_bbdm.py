#!/usr/bin/env python
"""Train a Brownian bridge between optical and SAR chips, then dump generated chips for fused testing.

    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml
    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml --init-from output/hoss/bbdm_pretrain_qxs/pipeline
    python tools/train_bbdm.py --config-file configs/HOSS/bbdm.yml --dump-only BRIDGE.SAMPLE.STEPS 10

Killed anywhere, the same command goes on. ``--num-gpus N`` starts N processes, each on a GPU of its own, or with
MODEL.DEVICE cpu on the CPU; ``accelerate launch tools/train_bbdm.py ...`` does as well. KEY VALUE pairs come last.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see mos_commands.py; before torch is loaded
    try:
        from fastreid_mos.bridge.cli import main
    except Exception as error:  # fast-reid missing: the message says which command installs it
        if type(error).__name__ != "MOSError":
            raise
        sys.exit(f"error: {error}")
    sys.exit(main())
