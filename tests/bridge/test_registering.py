"""diffusers finds the pipeline by its name after `import fastreid_mos`, which itself loads nothing of diffusers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import diffusers
import pytest
from tiny_bridge import tiny_pipeline

import fastreid_mos
from fastreid_mos.bridge import BrownianBridgePipeline, BrownianBridgeScheduler, registering


def run(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "p"
    tiny_pipeline().save_pretrained(path)
    return path


def test_loads_in_a_fresh_process_after_the_import_alone(folder):
    out = run(
        """
        import sys
        import fastreid_mos
        heavy = [name for name in ("diffusers", "accelerate", "huggingface_hub") if name in sys.modules]
        before = set(sys.modules)
        fastreid_mos.bridge.registering.register()
        brought = set(sys.modules) - before
        from diffusers import DiffusionPipeline
        lazy = "fastreid_mos.bridge.pipeline" not in sys.modules
        pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
        finders = [type(finder).__module__ for finder in sys.meta_path]
        print([heavy, brought, lazy, type(pipeline).__module__, type(pipeline.scheduler).__module__,
               "fastreid_mos.bridge.registering" in finders])
        """,
        str(folder),
    )
    assert out.strip() == str([[], set(), True, "fastreid_mos.bridge.pipeline", "fastreid_mos.bridge.scheduler", False])


def test_registers_when_diffusers_was_imported_first(folder):
    out = run(
        """
        import sys
        import diffusers  # its lazy top module does not need torchvision yet
        import fastreid_mos
        print(type(diffusers.DiffusionPipeline.from_pretrained(sys.argv[1])).__name__)
        """,
        str(folder),
    )
    assert out.strip() == "BrownianBridgePipeline"


def test_other_names_of_diffusers_are_untouched():
    assert diffusers.BrownianBridgePipeline is BrownianBridgePipeline
    assert diffusers.DDPMPipeline.__name__ == "DDPMPipeline"
    with pytest.raises(AttributeError, match="NoSuchPipeline"):
        _ = diffusers.NoSuchPipeline
    registering.register()
    registering.register()
    assert diffusers.BrownianBridgePipeline is BrownianBridgePipeline
    assert type(diffusers.__spec__.loader).__name__ == "SourceFileLoader"


def test_components_are_recorded_under_the_packages_name(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["scheduler"] == ["fastreid_mos", "BrownianBridgeScheduler"]
    assert index["_class_name"] == "BrownianBridgePipeline"
    assert fastreid_mos.BrownianBridgeScheduler is BrownianBridgeScheduler
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = fastreid_mos.NoSuchThing


def test_folders_from_the_hub_pass_diffusers_check_of_components(folder):
    utils = pytest.importorskip("diffusers.pipelines.pipeline_loading_utils")
    if not hasattr(utils, "_get_custom_components_and_folders"):
        pytest.skip("this diffusers has no such check")
    _get_custom_components_and_folders = utils._get_custom_components_and_folders

    index = json.loads((folder / "model_index.json").read_text())
    files = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    assert _get_custom_components_and_folders("me/ships", index, files)[0] == {}


def test_without_diffusers_the_package_still_imports():
    out = run(
        """
        import sys
        sys.modules["diffusers"] = None  # as if it were not installed
        import fastreid_mos
        try:
            from fastreid_mos.bridge import BrownianBridgePipeline
        except ImportError as error:
            print("diffusers" in str(error))
        """
    )
    assert out.strip() == "True"
