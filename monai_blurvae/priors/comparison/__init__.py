"""Learned priors against their competitors: one set of scans for all, tuned alike on validation subjects."""

from monai_blurvae.priors.comparison.methods import NOT_COMPARED, TRIALS, Method, classical_methods, prior_methods
from monai_blurvae.priors.comparison.report import write_report
from monai_blurvae.priors.comparison.results import Results
from monai_blurvae.priors.comparison.runner import Comparison
from monai_blurvae.priors.comparison.scenes import Case, Scene, Setting, find_cases, simulate
from monai_blurvae.priors.comparison.statistics import Interval, mean_with_interval
from monai_blurvae.priors.comparison.training import fitted_mixture, training_patches

__all__ = [
    "NOT_COMPARED",
    "TRIALS",
    "Case",
    "Comparison",
    "Interval",
    "Method",
    "Results",
    "Scene",
    "Setting",
    "classical_methods",
    "find_cases",
    "fitted_mixture",
    "mean_with_interval",
    "prior_methods",
    "simulate",
    "training_patches",
    "write_report",
]
