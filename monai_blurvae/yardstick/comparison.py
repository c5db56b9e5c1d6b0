"""A network beside the exact optimum of a linear VAE with the same latent size, β and weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import kl_standard_normal, spectral_sum
from monai_blurvae.losses import ELBOLoss, L2Loss, WienerLoss
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.linear import LinearVAE, at_rate, measure_linear_vae
from monai_blurvae.metrics.measures import MEASURES, Description
from monai_blurvae.metrics.spectra import log_spectrum_distance, relative_sharpness

FIGURES = (
    *(MEASURES[key] for key in ("psnr", "ssim", "sharpness_reconstruction", "spectrum_reconstruction", "kl")),
    Description("objective", "objective", "nats per image", 1, -1, "E_q ½ ‖W(x − x̂(z))‖² + β KL, without constants"),
)
"""What is measured of the network and of the linear models."""

NO_WEIGHT = "1"
MEAN_KERNEL = "that of the mean kernel over these images"
FIXED_KERNEL = "that of the loss's fixed kernel"
KEPT_WEIGHT = "that of the mean kernel over the images of the run's own test, since it could not be fitted anew"

Fit = Callable[[Tensor | None], LinearVAE]
"""Gives the linear VAE of a weight, at any β; it may be of another weight where that is all there is."""


class Standard(NamedTuple):
    """What a network and a linear model are held against.

    Attributes:
        beta: β of the objective; None where the network's is not of a kind that has a closed form.
        weight: |W| as a half spectrum, ``(1, 1, *half)``, or None for 1.
        text: what W is, in words.
    """

    beta: float | None
    weight: Tensor | None = None
    text: str = NO_WEIGHT


def standard_of(objective: nn.Module | None, evaluated: Evaluated) -> Standard:
    """What the objective is for the closed form: β, and one weight for all images.

    L2 has the weight 1. A Wiener term has that of its fixed kernel, or of the mean of the predicted kernels, detached.
    Any other term, one with auxiliary terms, and β = 0 have no closed form.

    Args:
        objective: that the network was trained with; None for one without a closed form.
        evaluated: the images with the predicted kernels.
    """
    if not isinstance(objective, ELBOLoss) or len(objective.auxiliary_terms) or not objective.beta > 0:
        return Standard(None)
    term, beta = objective.term, float(objective.beta)
    if isinstance(term, L2Loss):
        return Standard(beta)
    if not isinstance(term, WienerLoss):
        return Standard(None)
    fixed = objective.determinant == "fixed"
    mean = evaluated.kernels[evaluated.compared].double().mean(0, keepdim=True).float()
    kernel = objective.fixed_kernel.cpu() if fixed else mean
    return Standard(beta, term.weight(evaluated.images[:1], kernel).detach(), FIXED_KERNEL if fixed else MEAN_KERNEL)


def measure_network(evaluated: Evaluated, beta: float | None, weight: Tensor | None) -> dict[str, float | None]:
    """Measure a network as :func:`~monai_blurvae.metrics.measure_linear_vae` measures a linear VAE.

    The reconstruction term is a mean over a few latents of q(z|x), the KL exact.

    Args:
        evaluated: the images, at least 11×11, with the network's answers.
        beta: weight of the KL; None for no objective.
        weight: |W| as a half spectrum, ``(1, 1, *half)``; None for 1.

    Returns:
        The keys of :data:`FIGURES`; ``objective`` is None without a β.
    """
    chosen = evaluated.compared
    images, reconstructions = evaluated.images[chosen], evaluated.reconstructions[chosen]
    rate = float(kl_standard_normal(evaluated.mu[chosen].double(), evaluated.log_var[chosen].double()).mean())
    objective = None
    if beta is not None:
        power = evaluated.residual_power
        weighted = power if weight is None else power * weight.double().square()
        objective = 0.5 * float(spectral_sum(weighted, images.shape[2:])) + beta * rate
    return {
        **{key: float(values[chosen].double().mean()) for key, values in evaluated.quality.items()},
        "spectrum_reconstruction": float(log_spectrum_distance(reconstructions, images)),
        "sharpness_reconstruction": float(relative_sharpness(reconstructions, images)),
        "kl": rate,
        "objective": objective,
    }


def compare(evaluated: Evaluated, objective: nn.Module | None, fit: Fit) -> dict[str, Any]:
    """A network beside the linear VAE at its objective, and beside the linear L2 model at its rate.

    Args:
        evaluated: the images, at least 11×11, with the network's answers.
        objective: that the network was trained with; None for one without a closed form.
        fit: gives linear models of the network's latent size.

    Returns:
        ``latent_size``; ``beta`` (None without a closed form); ``weight``, what W is in words (likewise); ``samples``,
        latents of each image in the network's objective; ``network`` and ``linear``, the figures of the network and of
        the linear VAE at this β and W (None without a closed form); ``equal_rate``, those of the linear VAE of W = 1 at
        the β, under ``beta``, that has the network's KL on these images, with ``objective`` None; ``behind``, whether
        the network is, and ``verdict``, which says so in words. See :func:`verdict`.
    """
    beta, weight, text = standard_of(objective, evaluated)
    images = evaluated.images[evaluated.compared]
    linear = None
    if beta is not None:
        vae = fit(weight)
        if not same_weight(vae.weight, weight):
            weight, text = vae.weight, KEPT_WEIGHT
        linear = measure_linear_vae(replace(vae, beta=beta), images)
    figures = measure_network(evaluated, beta, weight)
    rate = figures["kl"]
    assert rate is not None
    plain = at_rate(fit(None), images, rate)
    content = {
        "latent_size": evaluated.mu.shape[1],
        "beta": beta,
        "weight": None if beta is None else text,
        "samples": evaluated.samples,
        "network": figures,
        "linear": linear,
        "equal_rate": {"beta": plain.beta, **measure_linear_vae(plain, images), "objective": None},
    }
    behind = is_behind(content)
    return {**content, "behind": behind, "verdict": verdict(content)}


def is_behind(content: Mapping[str, Any]) -> bool:
    """Whether the linear model is better: in the objective, or without a closed form in the PSNR at equal rate.

    A network whose figure is not a number is behind, too.

    Args:
        content: of :func:`compare`.
    """
    network, linear = content["network"], content["linear"]
    if linear is not None:
        return not network["objective"] <= linear["objective"]
    return not network["psnr"] >= content["equal_rate"]["psnr"]


def verdict(content: Mapping[str, Any]) -> str:
    """:func:`is_behind` in words, with the numbers.

    Args:
        content: of :func:`compare`.
    """
    network, linear, plain = content["network"], content["linear"], content["equal_rate"]
    model = f"a {content['latent_size']}-component linear model"
    if linear is not None:
        numbers = f"{linear['objective']:.1f} against {network['objective']:.1f} nats at β = {content['beta']:g}"
        if is_behind(content):
            return f"not trained: {model} has a better bound ({numbers})"
        return f"better than {model} in its bound ({numbers.replace(' against ', ' for it against ')})"
    numbers = f"{plain['psnr']:.2f} against {network['psnr']:.2f} dB at {network['kl']:.1f} nats"
    if is_behind(content):
        return f"not trained: {model} has a better PSNR at the same rate ({numbers})"
    return f"better than {model} in its PSNR at the same rate ({numbers.replace(' against ', ' for it against ')})"


def same_weight(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two weights are the same but for rounding."""
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.allclose(first.double(), second.double(), rtol=1e-5, atol=0)
