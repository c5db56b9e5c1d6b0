"""Ignite engines for the alternating updates and for evaluation."""

from monai_blurvae.engines.evaluator import BlurVAEEvaluator
from monai_blurvae.engines.iteration import BlurVAEEvents, BlurVAEKeys
from monai_blurvae.engines.trainer import BlurVAETrainer

__all__ = ["BlurVAEEvaluator", "BlurVAEEvents", "BlurVAEKeys", "BlurVAETrainer"]
