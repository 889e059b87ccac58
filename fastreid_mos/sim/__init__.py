"""The simulated HOSS: ships as geometry, an optical and a SAR renderer, and a writer of HOSS's layout.

No result on these data says anything about real ships by itself: call it simulated wherever it stands.
"""

from .classes import CLASSES, sample_ship
from .optical import render_optical
from .passes import SEQUENCES, OpticalPass, SarPass, optical_pass, sar_pass
from .sar import render_sar
from .ships import Bar, Part, Ship
from .tables import write_list
from .writer import SimConfig, write_hoss

__all__ = [
    "CLASSES", "SEQUENCES", "Bar", "OpticalPass", "Part", "SarPass", "Ship", "SimConfig", "optical_pass",
    "render_optical", "render_sar", "sample_ship", "sar_pass", "write_hoss", "write_list",
]  # fmt: skip
