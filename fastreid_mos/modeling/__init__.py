"""Models and losses: TransOSS, CMAL, the head, the meta-architecture, timm backbones and the import of weights."""

from .building import build_checked_model
from .cmal import CMALLoss, cmal_loss
from .cross_modal import cross_modal_infonce, cross_modal_triplet
from .heads import CMALHead
from .inputs import ModelInputError
from .losses import LOSS_REGISTRY, batch_hard_triplet_loss, cross_entropy_loss, pair_contrastive_loss, pair_logits
from .mos import MOS
from .sdf import SharedSpecificHead, orthogonality, structure_consistency, structure_vector
from .timm_backbone import TimmBackbone, build_timm_backbone
from .transoss import TransOSS, build_transoss_backbone
from .weights import WeightsReport, load_reid_weights

__all__ = [
    "LOSS_REGISTRY",
    "MOS",
    "CMALHead",
    "CMALLoss",
    "ModelInputError",
    "SharedSpecificHead",
    "TimmBackbone",
    "TransOSS",
    "WeightsReport",
    "batch_hard_triplet_loss",
    "build_checked_model",
    "build_timm_backbone",
    "build_transoss_backbone",
    "cmal_loss",
    "cross_modal_infonce",
    "cross_modal_triplet",
    "cross_entropy_loss",
    "load_reid_weights",
    "pair_contrastive_loss",
    "orthogonality",
    "pair_logits",
    "structure_consistency",
    "structure_vector",
]
