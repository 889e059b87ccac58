"""mos index by several processes of torchrun: each chip is done once, whoever is stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import pytest
from made_predictor import MadePredictor

from fastreid_mos.errors import MOSError
from fastreid_mos.search import ChipIndex
from fastreid_mos.search.together import update_together
from fastreid_mos.search.update import update, weights_of
from fastreid_mos.search.writer import writing


def process(rank, port_number, where, chips, stop, log):
    """One of two processes. Writes what it has read and counted; may stop before the chip of a name is read."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port_number), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= address
    predictor = MadePredictor()
    predictor.before = lambda path: os._exit(9) if stop and path.endswith(stop) else None
    error = result = None
    try:
        result = update_together(where, [str(chips)], predictor)
    except MOSError as raised:
        error = str(raised)
    read = sorted(os.path.basename(path) for path in predictor.read)
    (log / f"{rank}.json").write_text(json.dumps([read, result and vars(result), error]))


@pytest.fixture
def together(tmp_path, port):
    """A function: run two processes -> of each what it has read, counted, and its error; None if it was stopped."""

    def call(where, stop=""):
        with socket.create_server(("127.0.0.1", 0)) as place:
            number = place.getsockname()[1]
        log = tmp_path / "log"
        shutil.rmtree(log, ignore_errors=True)
        log.mkdir()
        fork = multiprocessing.get_context("fork")  # torch is imported already
        started = [fork.Process(target=process, args=(rank, number, where, port, stop, log)) for rank in range(2)]
        for one in started:
            one.start()
        for one in started:
            one.join(60)
            one.kill()
        files = [log / f"{rank}.json" for rank in range(2)]
        return [json.loads(file.read_text()) if file.exists() else None for file in files]

    return call


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["5_RGB.png", "6_RGB.png"])
def test_each_chip_is_done_once_by_two_processes(together, tmp_path, port, stop):
    where, names = str(tmp_path / "out"), {f"{number}_RGB.png" for number in range(10)}
    stopped = together(where, stop)
    assert None in stopped and "another process of torchrun has ended" in next(filter(None, stopped))[2]
    with pytest.raises(MOSError, match="is not finished"):
        ChipIndex.open(where)
    (own, counts, _), (other, none, _) = together(where)
    assert none is None and not set(own) & set(other) - {"broken_RGB.png"}
    assert counts["total"] == 10 and list(counts["skipped"]) == [str(port / "broken_RGB.png")]
    assert counts["new"] + counts["same"] == 10 and counts["same"] > 0  # what was done before the stop stays
    assert not [name for name in os.listdir(where) if name.startswith("share")]
    (port / "2_RGB.png").unlink()
    (port / "far").rename(port / "near")
    (own, counts, _), (other, _, _) = together(where)
    assert set(own) | set(other) == {"broken_RGB.png"}  # moved chips keep their features
    assert (counts["moved"], counts["same"], counts["removed"], counts["new"]) == (2, 7, 3, 0)
    index = ChipIndex.open(where)
    rows = index.search(index.features([0]), 50)[0][0]
    assert {Path(index.chips[int(row)].path).name for row in rows if row >= 0} == names - {"2_RGB.png"}


def test_a_share_that_a_stopped_run_left_is_taken_over(tmp_path, port):
    where, predictor = tmp_path / "out", MadePredictor()
    with writing(str(where), weights_of(predictor)) as store:
        with writing(str(where / "share-3"), store.weights) as share:
            update(
                store, [str(port)], predictor, part=lambda path: path.endswith(("1_RGB.png", "2_RGB.png")), into=share
            )
    assert len(predictor.read) == 2
    result = update_together(str(where), [str(port)], predictor)
    assert len(predictor.read) == 2 + 9 and (result.new, result.same) == (8, 2)
    assert len(ChipIndex.open(where)) == 10 and not (where / "share-3").exists()
