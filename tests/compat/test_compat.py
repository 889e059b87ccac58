"""Each fault of fast-reid seen on today's stack, and that it is gone. Every test fails without its remedy."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import fastreid_mos
from fastreid_mos.compat import PATCHES
from fastreid_mos.compat.checkpoints import read_checkpoint
from fastreid_mos.errors import CheckpointError, WeightsError

# Modules of fast-reid that cannot be imported, and why. All others must be.
NOT_IMPORTABLE = {
    "fastreid.evaluation.rank_cylib.setup": "a build script: it runs setup() and wants Cython",
    "fastreid.evaluation.rank_cylib.test_cython": "a benchmark: it wants the compiled rank_cy and runs at import",
}


def test_every_fastreid_module_imports():
    import fastreid

    failed = {}
    for module in pkgutil.walk_packages(fastreid.__path__, "fastreid."):
        if module.name in NOT_IMPORTABLE:
            continue
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failed[module.name] = repr(error)
    assert not failed


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])


def test_importing_leaves_the_process_as_it_was(monkeypatch):
    """No stand-in stays behind, no environment variable is set, and a class stays a class."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    result = run_python("""
        import collections, os, sys, torch
        before = dict(os.environ)
        import fastreid_mos, fastreid.engine
        assert not hasattr(collections, "Mapping") and "torch._six" not in sys.modules
        assert dict(os.environ) == before
        from fastreid.data import build, data_utils
        assert isinstance(data_utils.DataLoaderX, type) and build.DataLoaderX is data_utils.DataLoaderX
        print("clean")
    """)
    assert result.stdout.strip().endswith("clean"), result.stderr


@pytest.mark.parametrize("tool", ["train_net", "train_bbdm", "demo", "draw_ranks"])
def test_tools_let_waiting_threads_sleep(monkeypatch, tool):
    """Set before anything of ours, and with it torch, is imported."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # to be put back in any case
    monkeypatch.delenv("OMP_WAIT_POLICY")
    for module in ("fastreid_mos.cli", "fastreid_mos.bridge.cli"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", [tool, "run"] if tool == "draw_ranks" else [tool])
    with pytest.raises(ImportError):
        runpy.run_path(str(Path(__file__).parents[2] / "tools" / f"{tool}.py"), run_name="__main__")
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_missing_fastreid_says_which_command_installs_it():
    result = run_python("""
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "fastreid" else real(name, *rest)
        try:
            import fastreid_mos
        except Exception as error:
            print(type(error).__name__, error)
    """)
    assert "MOSError" in result.stdout and "pip install --no-deps fastreid" in result.stdout


def test_missing_faiss_does_not_stop_the_import():
    result = run_python("""
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "faiss" else real(name, *rest)
        import fastreid_mos
        assert "faiss" not in sys.modules
        from fastreid.utils import faiss_utils
        try:
            faiss_utils.index_init_cpu(4)
        except Exception as error:
            print(error)
    """)
    assert "pip install faiss-cpu" in result.stdout, result.stderr


def test_every_patch_has_a_reason_and_a_version():
    assert len(PATCHES) >= 20
    assert all(patch.reason and patch.version for patch in PATCHES)


def test_a_patch_is_left_out_where_the_fault_is_gone(monkeypatch):
    from fastreid.modeling.meta_arch import Baseline

    from fastreid_mos.compat import evaluation, registry

    def preprocess_image(self, batched_inputs):
        return "repaired upstream"

    noted: list = []
    monkeypatch.setattr(registry, "PATCHES", noted)
    monkeypatch.setattr(Baseline, "preprocess_image", preprocess_image)
    evaluation._normalize_out_of_place()
    assert Baseline.preprocess_image is preprocess_image
    assert [patch.active for patch in noted] == [False]


def test_loader_runs_without_cuda(tmp_path):
    from fastreid.data.build import build_reid_test_loader
    from fastreid.data.common import CommDataset
    from fastreid.data.transforms import build_transforms
    from PIL import Image

    path = tmp_path / "0001_c1.png"
    Image.fromarray(np.full((40, 20, 3), 7, np.uint8)).save(path)
    dataset = CommDataset([(str(path), 1, 0)], build_transforms(fastreid_mos.get_cfg(), is_train=False), relabel=False)
    loader, _ = build_reid_test_loader(test_set=dataset, test_batch_size=1, num_query=1, num_workers=0)
    batch = next(iter(loader))
    assert batch["images"].shape == (1, 3, 256, 128) and batch["images"].max() == 7


@pytest.mark.parametrize("cuda", [False, True])
def test_the_loader_is_a_class_that_can_be_derived_from(monkeypatch, cuda):
    """With CUDA it is fast-reid's own, which opens a stream."""
    from fastreid.data.data_utils import DataLoaderX

    class Loader(DataLoaderX):
        def __init__(self, **kwargs):
            super().__init__(0, dataset=[1, 2, 3], **kwargs)

    streams = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "Stream", streams.append)
    loader = Loader(batch_size=2, pin_memory=not cuda)
    assert isinstance(loader, DataLoaderX) and isinstance(loader, torch.utils.data.DataLoader)
    assert streams == ([0] if cuda else [])
    assert cuda or [batch.tolist() for batch in loader] == [[1, 2], [3]]


def test_read_image_takes_a_float_tiff(tmp_path):
    from fastreid.data.data_utils import read_image

    path = tmp_path / "0001_SAR.tif"
    tifffile.imwrite(path, np.random.default_rng(0).gamma(1.0, size=(50, 30)).astype(np.float32))
    image = read_image(str(path))
    assert image.size == (30, 50) and image.mode == "RGB" and len(np.unique(np.asarray(image))) > 100


def test_affine_augmentation_builds():
    from fastreid.data.transforms import build_transforms
    from PIL import Image

    cfg = fastreid_mos.get_cfg()
    cfg.INPUT.AFFINE.ENABLED = True
    image = build_transforms(cfg)(Image.fromarray(np.zeros((40, 20, 3), np.uint8)))
    assert image.shape == (3, 256, 128)


def test_set_reweight_sampler_yields_whole_batches():
    from fastreid.data.samplers import SetReWeightSampler

    items = [(f"{pid}_{camera}_{k}", pid, camera) for pid in range(8) for camera in range(2) for k in range(3)]
    sampler = iter(SetReWeightSampler(items, 16, 2, [2, 2], seed=0))
    batch = [next(sampler) for _ in range(16)]
    assert len({items[i][1] for i in batch}) >= 3 and all(0 <= i < len(items) for i in batch)


def test_combineall_with_integer_identities():
    from fastreid.data.common import CommDataset
    from fastreid.data.datasets.bases import ImageDataset

    dataset = ImageDataset([("a", 3, 0), ("b", 5, 1)], [("c", 3, 0)], [("d", 3, 1), ("e", -1, 1)], combineall=True)
    assert [item[1] for item in dataset.train] == [3, 5, 9, 9]
    assert CommDataset(dataset.train, None).num_classes == 3


def test_optimizer_changes_the_weights():
    from fastreid.solver import build_optimizer

    model = torch.nn.Sequential(torch.nn.Linear(4, 2))
    optimizer, _ = build_optimizer(fastreid_mos.get_cfg(), model)
    before = model[0].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()
        first = model[0].weight.grad.clone()
        optimizer.step()
    assert not torch.equal(before, model[0].weight)
    assert torch.equal(first, torch.full_like(first, 3.0)), "gradients of two steps were added up"


def test_cosine_with_warmup_only():
    from fastreid.solver import build_lr_scheduler, build_optimizer

    cfg = fastreid_mos.get_cfg()
    cfg.SOLVER.SCHED, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.WARMUP_ITERS = "CosineAnnealingLR", 1, 10
    optimizer, _ = build_optimizer(cfg, torch.nn.Linear(2, 2))
    schedulers = build_lr_scheduler(cfg, optimizer, 10)
    optimizer.step()
    schedulers["lr_sched"].step()
    assert np.isfinite(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(("name", "depth"), [("build_regnet_backbone", "200x"), ("build_effnet_backbone", "b0")])
def test_regnet_yaml_is_found_from_any_folder(name, depth, tmp_path, monkeypatch):
    from fastreid.modeling.backbones import build_backbone

    monkeypatch.chdir(tmp_path)
    cfg = fastreid_mos.get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH = name, depth
    assert build_backbone(cfg).eval()(torch.zeros(1, 3, 64, 32)).shape[0] == 1


def test_unsafe_yaml_is_never_run(tmp_path):
    import yaml

    from fastreid_mos.errors import ConfigError

    path = tmp_path / "evil.yml"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(yaml.YAMLError):
        fastreid_mos.get_cfg().merge_from_file(str(path), allow_unsafe=True)
    with pytest.raises(ConfigError, match=r"evil.yml"):
        fastreid_mos.load_cfg(str(path))
    assert not (tmp_path / "made").exists()


def test_jaccard_distance_on_cpu():
    from fastreid.utils.compute_dist import build_dist

    features = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    distances = build_dist(features[:10], features[10:], metric="jaccard", k1=8, k2=3)
    assert distances.shape == (10, 30) and 0 <= distances.min() and distances.max() <= 1 + 1e-6


def test_the_evaluator_keeps_no_open_file_of_a_loader_worker():
    from fastreid.evaluation import ReidEvaluator

    labels = torch.arange(3).share_memory_()
    evaluator = ReidEvaluator(None, 1)
    evaluator.process({"targets": labels, "camids": labels}, torch.zeros(3, 2))
    (kept,) = evaluator._predictions
    assert all(kept[name].equal(labels) and not kept[name].is_shared() for name in ("pids", "camids"))


def test_evaluate_rank_with_a_small_gallery():
    from fastreid.evaluation.rank import evaluate_rank

    distances = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
    cmc, ap, inp = evaluate_rank(
        distances, np.array([1, 2]), np.array([1, 2, 3]), np.array([0, 0]), np.array([1, 1, 0])
    )
    assert cmc[0] == 1.0 and len(cmc) >= 10 and np.mean(ap) == 1.0 and np.mean(inp) == 1.0


def test_flip_testing_does_not_normalize_twice():
    from fastreid.modeling.meta_arch import Baseline

    model = Baseline.__new__(Baseline)
    torch.nn.Module.__init__(model)
    model.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), 100.0))
    model.register_buffer("pixel_std", torch.full((1, 3, 1, 1), 50.0))
    inputs = {"images": torch.full((1, 3, 2, 2), 150.0)}
    assert model.preprocess_image(inputs).mean() == 1.0
    assert inputs["images"].mean() == 150.0


class TestCheckpointer:
    """fast-reid's Checkpointer: whole files, no pickle code, no silent loading of nothing."""

    @staticmethod
    def saved(tmp_path, **extra):
        from fastreid.utils.checkpoint import Checkpointer

        Checkpointer(torch.nn.Linear(2, 3), str(tmp_path)).save("model", **extra)
        return tmp_path / "model.pth"

    def test_numpy_scalars_survive(self, tmp_path):
        path = self.saved(tmp_path, metric=np.float64(0.25), epoch=np.int64(3))
        checkpoint = read_checkpoint(str(path))
        assert checkpoint["metric"] == 0.25 and checkpoint["epoch"] == 3
        assert (tmp_path / "last_checkpoint").read_text() == "model.pth"

    def test_other_storage_is_written_by_its_handler(self, tmp_path, monkeypatch):
        from fastreid.utils.checkpoint import Checkpointer
        from fastreid.utils.file_io import PathHandler, PathManager

        class Store(PathHandler):
            def _get_supported_prefixes(self):
                return ["store://"]

            def _open(self, path, mode="r", **_):
                return open(tmp_path / path.removeprefix("store://"), mode)

        monkeypatch.setattr(PathManager, "_PATH_HANDLERS", PathManager._PATH_HANDLERS.copy())
        PathManager.register_handler(Store())
        monkeypatch.chdir(tmp_path)
        Checkpointer(torch.nn.Linear(2, 3), "store://").save("model", epoch=3)
        assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "last_checkpoint"}
        assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
        assert read_checkpoint(str(tmp_path / "model.pth"))["epoch"] == 3

    def test_every_truncation_is_refused_by_name(self, tmp_path):
        whole = self.saved(tmp_path).read_bytes()
        path = tmp_path / "cut.pth"
        for length in range(0, len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"cut\.pth"):
                read_checkpoint(str(path))

    def test_pickle_code_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                import os

                return os.mkdir, (str(tmp_path / "made"),)

        path = tmp_path / "evil.pth"
        torch.save({"model": {"weight": torch.zeros(1)}, "x": Evil()}, path)
        with pytest.raises(CheckpointError, match=r"evil\.pth.*run code"):
            read_checkpoint(str(path))
        assert not (tmp_path / "made").exists()

    def test_renamed_keys_are_an_error(self, tmp_path):
        from fastreid.utils.checkpoint import Checkpointer

        path = tmp_path / "renamed.pth"
        torch.save({"model": {"base.weight": torch.zeros(3, 2), "base.bias": torch.zeros(3)}}, path)
        with pytest.raises(WeightsError, match="none of the checkpoint's 2 weights"):
            Checkpointer(torch.nn.Linear(2, 3)).load(str(path))

    def test_a_failed_save_leaves_the_earlier_file(self, tmp_path):
        path = self.saved(tmp_path)
        before = path.read_bytes()
        with pytest.raises(Exception, match="pickle"):
            self.saved(tmp_path, bad=lambda: None)
        assert path.read_bytes() == before
        assert not list(tmp_path.glob("*.tmp"))


def _gathers(marker: str) -> None:
    from fastreid.utils import comm

    ranks = comm.all_gather(comm.get_rank())
    seeds = comm.all_gather(comm.shared_random_seed())
    if comm.is_main_process():
        Path(marker).write_text(f"{ranks} {len(set(seeds))} {comm.get_local_rank()}")


def test_launch_runs_several_processes_on_a_cpu(tmp_path):
    from fastreid.engine import launch

    launch(_gathers, 2, dist_url="auto", args=(str(tmp_path / "marker"),))
    assert (tmp_path / "marker").read_text() == "[0, 1] 1 0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_first_process_stops_those_it_has_started(monkeypatch, capsys, number):
    from fastreid_mos import cli
    from fastreid_mos.compat import launching

    started = []

    def spawn(*args: object, **kwargs: object) -> None:
        started.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)))
        started[0].start()
        os.kill(os.getpid(), number)
        started[0].join()

    before = signal.getsignal(number)
    monkeypatch.setattr(launching.mp, "spawn", spawn)
    assert cli.run(lambda: launching.launch(print, 2)) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert not started[0].is_alive() and signal.getsignal(number) == before


@pytest.mark.parametrize(
    "code, signal_name, said", [(130, None, "stopped\n"), (-9, "SIGKILL", "memory"), (-11, "SIGSEGV", "SIGSEGV")]
)
def test_how_one_of_several_processes_ended_is_said(capsys, code, signal_name, said):
    from fastreid_mos import cli

    def program():
        text = f"process 1 terminated with {signal_name or code}"
        raise torch.multiprocessing.ProcessExitedException(
            text, error_index=1, error_pid=7, exit_code=code, signal_name=signal_name
        )

    assert cli.run(program) == (code if code > 0 else 1)
    error = capsys.readouterr().err
    assert said in error and ("memory" in error) == (signal_name == "SIGKILL")
