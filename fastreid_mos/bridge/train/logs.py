"""What a bridge's training leaves to read: log.txt, metrics.json, tensorboard scalars and sample grids."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
from diffusers.utils import logging as diffusers_logging
from fastreid.utils.logger import setup_logger
from numpy.typing import NDArray

from ...errors import MOSError
from ...files import atomic_write, keep_lines_before

LOSSES, LOG, CONFIG = "metrics.json", "log.txt", "bbdm.yaml"
# What runs of the re-identifier leave: their files have the same names.
_OTHERS = ("last_checkpoint", "model_final.pth", "results.json", "config.yaml", "eval_config.yaml", LOSSES)


def claim_folder(folder: str, cfg: Any, main: bool) -> None:
    """Take ``OUTPUT_DIR`` for a bridge: its config goes there, and the log.

    Args:
        folder: OUTPUT_DIR.
        cfg: the config.
        main: whether this is the first process, which alone writes.

    Raises:
        MOSError: a run of the re-identifier is there, or it cannot be written.
    """
    if not main:
        return
    check_folder(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        with atomic_write(os.path.join(folder, CONFIG)) as stream:
            stream.write(cfg.dump())
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from None
    log_to(folder, main)


def check_folder(folder: str) -> None:
    """Refuse a folder with a run of the re-identifier in it, whose files a bridge would mix with its own.

    Raises:
        MOSError: one line with the file that tells.
    """
    if os.path.isfile(os.path.join(folder, CONFIG)):
        return
    other = [name for name in _OTHERS if os.path.lexists(os.path.join(folder, name))]
    if other:
        raise MOSError(f"OUTPUT_DIR {folder}: holds another run ({other[0]}); set OUTPUT_DIR to a folder of its own")


def start_log(main: bool) -> logging.Logger:
    """The log on the screen, of the first process only."""
    setup_logger(None, distributed_rank=0 if main else 1, name="fastreid_mos")
    for handler in logging.getLogger("fastreid_mos").handlers:
        # fast-reid keeps the first call's; what standard output is may have changed since (in tests, in notebooks).
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stdout
    diffusers_logging.disable_progress_bar()  # of loading a folder's parts, which takes no time
    for name in ("accelerate", "diffusers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return logging.getLogger("fastreid_mos.bridge")


class _RunFile(logging.FileHandler):
    """log.txt of a run."""


def log_to(folder: str, main: bool) -> None:
    """From here on what is logged goes to the folder's log.txt too, behind what is there.

    Args:
        folder: OUTPUT_DIR.
        main: whether this is the first process, which alone writes.

    Raises:
        MOSError: it cannot be written to.
    """
    logger = logging.getLogger("fastreid_mos")
    for handler in list(logger.handlers):  # of an earlier run in this process
        if isinstance(handler, _RunFile):
            logger.removeHandler(handler)
            handler.close()
    if not main:
        return
    try:
        file = _RunFile(os.path.join(folder, LOG), encoding="utf-8", errors="replace")
    except OSError as error:
        raise MOSError(f"OUTPUT_DIR {folder}: cannot be written to ({error.strerror})") from None
    form = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
    file.setFormatter(logging.Formatter(form, datefmt="%m/%d %H:%M:%S"))
    logger.addHandler(file)
    if logger.level == logging.NOTSET:  # where nobody has set up a log
        logger.setLevel(logging.INFO)


class BridgeLog:
    """Losses by step, as lines of ``metrics.json`` and as tensorboard scalars, and grids of samples.

    Lines of steps that are done again after a kill are dropped first, so that the file reads as that of a run that was
    never killed.

    Args:
        folder: OUTPUT_DIR.
        start: the first step that is to come.
    """

    def __init__(self, folder: str, start: int) -> None:
        path = os.path.join(folder, LOSSES)
        keep_lines_before(path, "step", start)
        self._stream: TextIO = open(path, "a", encoding="utf-8")
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step hides in tensorboard what is done again.
            self._writer = SummaryWriter(folder, purge_step=start)
        except ImportError:
            logging.getLogger("fastreid_mos.bridge").info("tensorboard is not installed; its event file is left out")

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and the scalars under ``train/``."""
        self._stream.write(json.dumps({"step": step, **values}, sort_keys=True) + "\n")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        """Bring what was written to the file."""
        self._stream.flush()

    def grid(self, step: int, columns: Sequence[NDArray[np.uint8]], name: str = "source, generated, real") -> None:
        """A picture of rows of images side by side.

        Args:
            step: when.
            columns: ``[B, H, W, 3]`` uint8 each, such as source, generated, real.
            name: of the picture.
        """
        if self._writer is not None:
            self._writer.add_image(name, image_grid(columns), step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._stream.close()
        if self._writer is not None:
            self._writer.close()


def image_grid(columns: Sequence[NDArray[np.uint8]], gap: int = 2) -> NDArray[np.uint8]:
    """Columns of images ``[B, H, W, 3]`` as one picture, B rows of them with white gaps."""
    count, height, width, _ = columns[0].shape
    across = len(columns) * (width + gap) - gap
    picture = np.full((count * (height + gap) - gap, across, 3), 255, np.uint8)
    for place, column in enumerate(columns):
        for row, image in enumerate(column):
            top, left = row * (height + gap), place * (width + gap)
            picture[top : top + height, left : left + width] = image
    return picture
