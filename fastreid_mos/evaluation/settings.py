"""Settings of the evaluator, with and without a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MODALITIES = {"optical": 0, "sar": 1}


@dataclass(frozen=True)
class EvalSettings:
    """How features are ranked and reported; each is the key of ``TEST`` that has its name."""

    # (name, modality of the queries, modality of the gallery), a modality being all, optical or sar
    protocols: Sequence[Sequence[str]] = (("ALL", "all", "all"), ("O2S", "optical", "sar"), ("S2O", "sar", "optical"))
    metric: str = "cosine"  # or euclidean
    cmc_ranks: Sequence[int] = (1, 5, 10, 20)  # the k of the Rank-k figures, from 1
    remove_same_camera: bool = False  # leave gallery chips of the query's identity and camera out, as fast-reid does
    block_mb: float = 256  # bound on the memory of a block of distances, in MiB, above 0
    random_draws: int = 100  # random orders averaged in the random row, from 1
    bootstrap_samples: int = 1000  # resamplings of the ships for the intervals; 0: none
    bootstrap_seed: int = 0
    rerank: tuple[int, int, float] | None = None  # k1 and k2 (from 1, k2 at most k1) and lambda (0..1); None: off
    aqe: tuple[int, int, float] | None = None  # times and neighbours (from 1) and exponent (from 0); None: off
    adapt_bn: float = 0.0  # for the record: the tested chips' share in the batch norm's statistics
    fusion: bool = False  # whether features are to be fused with those of generated chips
    seed: int | None = None  # this and the rest: the run's, for the record
    weights: str = ""
    run_folder: str = ""

    @classmethod
    def from_cfg(cls, cfg: Any) -> EvalSettings:
        test = cfg.TEST
        rerank, aqe = test.RERANK, test.AQE
        return cls(
            protocols=tuple(map(tuple, test.PROTOCOLS)),
            metric=test.METRIC,
            cmc_ranks=tuple(sorted(set(test.CMC_RANKS))),
            remove_same_camera=test.REMOVE_SAME_CAMERA,
            block_mb=test.BLOCK_MB,
            random_draws=test.RANDOM_DRAWS,
            bootstrap_samples=test.BOOTSTRAP.SAMPLES,
            bootstrap_seed=test.BOOTSTRAP.SEED,
            rerank=(rerank.K1, rerank.K2, rerank.LAMBDA) if rerank.ENABLED else None,
            aqe=(aqe.QE_TIME, aqe.QE_K, aqe.ALPHA) if aqe.ENABLED else None,
            adapt_bn=test.ADAPT_BN.WEIGHT,
            fusion=test.FUSION.ENABLED,
            seed=cfg.SEED,
            weights=cfg.MODEL.WEIGHTS,
            run_folder=cfg.OUTPUT_DIR,
        )
