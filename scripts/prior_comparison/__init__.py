"""Learned priors against their competitors: one set of scans for all, tuned alike on validation subjects."""

from prior_comparison.methods import NOT_COMPARED, TRIALS, Method, classical_methods, prior_methods
from prior_comparison.report import write_report
from prior_comparison.results import Results
from prior_comparison.runner import Comparison
from prior_comparison.scenes import Case, Scene, Setting, find_cases, simulate
from prior_comparison.statistics import Interval, mean_with_interval
from prior_comparison.training import fitted_mixture, training_patches

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
