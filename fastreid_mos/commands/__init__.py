"""The program ``mos``: one module for each subcommand, loaded when it is called."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..predict import Predictor

# Subcommand: what it is for. Its module has main(argv) -> exit status, and an epilog with an example that tests run.
COMMANDS = {
    "train": "train or test a re-identifier, with fast-reid's command line",
    "train-bbdm": "train a bridge, and generate SAR chips with it",
    "predict": "answer a task: the most similar gallery chips of every query",
    "score": "Rank-1, mAP and a weighted total of the answer to a task",
    "unite": "several answers to a task in one",
    "choose": "which models to unite, measured on ships that it was not chosen on",
    "index": "an index of folders of chips: what is new or changed is done",
    "search": "the chips of an index that are most like yours",
    "serve": "search an index in the browser",
    "check": "what is in a folder of chips, and what is wrong with it",
    "export": "weights that can be shared, without their run",
    "simulate": "write simulated ships in HOSS's form, or as a table and a task",
    "health": "versions, devices, weights and data sets that are found",
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: mos COMMAND ...", "", "Find ships again in optical and radar satellite images.", "",
                      *lines, "", "mos COMMAND --help tells more about one, with an example."])  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mos COMMAND ...``. Returns the exit status: 0, 2 after wrong input, 130 after Ctrl-C."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name not in COMMANDS:
        print(f"error: mos has no command {name!r}\n\n{_help()}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f".{name.replace('-', '_')}", __name__).main(rest))


def make_parser(name: str, doc: str | None, epilog: str = "") -> argparse.ArgumentParser:
    """The parser of a command; its help keeps the lines of both texts."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"mos {name}", description=doc, epilog=epilog, formatter_class=form)


def run(program: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> int:
    """The exit status of a command. What it needs is imported here, not for its help."""
    from .. import cli

    return cli.run(lambda: program(args))


def require_least(args: argparse.Namespace, **least: int) -> None:
    """A MOSError for an option that is given and is not a number from its least one on."""
    from ..errors import MOSError

    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and not low <= value < math.inf:
            raise MOSError(f"--{name.replace('_', '-')} {value:g}: must be a number, {low} or more")


def open_predictors(names: Sequence[str], args: argparse.Namespace) -> list[Predictor]:
    """Of weights, with ``--device`` and, where there is one, ``--batch-size``."""
    from ..errors import MOSError
    from ..predict import Predictor

    try:
        return [Predictor(name, args.device, getattr(args, "batch_size", 64)) for name in names]
    except ValueError as error:  # a device or a batch size that cannot be
        raise MOSError(f"--{str(error).replace('batch_size', 'batch-size', 1)}") from None
