"""Models and losses: TransOSS, CMAL, the head, the meta-architecture, timm backbones and the import of weights."""

from .backbones import build_transoss_backbone
from .building import build_checked_model
from .cmal import cmal_loss
from .contrastive import pair_contrastive_loss, pair_logits
from .heads import CMALHead
from .inputs import ModelInputError
from .losses import batch_hard_triplet_loss, cross_entropy_loss
from .mos import LOSS_NAMES, MOS
from .timm_backbone import TimmBackbone, build_timm_backbone
from .transoss import TransOSS
from .weights import WeightsReport, load_reid_weights

__all__ = [
    "LOSS_NAMES",
    "MOS",
    "CMALHead",
    "ModelInputError",
    "TimmBackbone",
    "TransOSS",
    "WeightsReport",
    "batch_hard_triplet_loss",
    "build_checked_model",
    "build_timm_backbone",
    "build_transoss_backbone",
    "cmal_loss",
    "cross_entropy_loss",
    "load_reid_weights",
    "pair_contrastive_loss",
    "pair_logits",
]
