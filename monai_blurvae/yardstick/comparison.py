"""A network beside the exact optimum of a linear VAE with the same latent size, β and weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_blurvae.functional import kl_standard_normal, weighted_spectral_sum
from monai_blurvae.losses import ELBOLoss, L2Loss, WienerLoss
from monai_blurvae.metrics.likelihood import LatentModel, evaluation_mode
from monai_blurvae.metrics.linear import LinearVAE, at_rate, measure_linear_vae, reconstruction_figures
from monai_blurvae.metrics.measures import MEASURES, Description
from monai_blurvae.seeding import torch_rng

FIGURES = (
    *(MEASURES[key] for key in ("psnr", "ssim", "sharpness_reconstruction", "spectrum_reconstruction", "kl")),
    Description("objective", "objective", "nats per image", 1, -1, "E_q ½ ‖W(x − x̂(z))‖² + β KL, without constants"),
)
"""What is measured of the network and of the linear models."""

LATENTS = 4096
"""Latents that the expected reconstruction term is the mean over, of all images together: a few of each where they are
few, one where they are many."""
MOST_SAMPLES = 8

LATENTS_AT_ONCE = 64

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


def standard_of(objective: nn.Module | None, network: LatentModel, images: Tensor) -> Standard:
    """What the objective is for the closed form: β, and one weight for all images.

    L2 has the weight 1. A Wiener term has that of its fixed kernel, or of the mean of the predicted kernels, detached.
    Any other term, one with auxiliary terms, and β = 0 have no closed form.

    Args:
        objective: that the network was trained with; None for one without a closed form.
        network: predicts the kernels.
        images: in [−1, 1], ``(B, C, H, W)``.
    """
    if not isinstance(objective, ELBOLoss) or len(objective.auxiliary_terms) or not objective.beta > 0:
        return Standard(None)
    term, beta = objective.term, float(objective.beta)
    if isinstance(term, L2Loss):
        return Standard(beta)
    if not isinstance(term, WienerLoss):
        return Standard(None)
    fixed = objective.determinant == "fixed"
    kernel = objective.fixed_kernel.cpu() if fixed else mean_kernel(network, images)
    return Standard(beta, term.weight(images[:1].cpu(), kernel).detach(), FIXED_KERNEL if fixed else MEAN_KERNEL)


@torch.no_grad()
def mean_kernel(network: LatentModel, images: Tensor) -> Tensor:
    """The mean of the kernels at the posterior means of images ``(B, C, H, W)``, ``(1, 1, k, k)``, on the CPU."""
    device = _device_of(network)
    with evaluation_mode(network):
        parts = [network.kernel(network.encode(part.to(device))[0]) for part in images.split(LATENTS_AT_ONCE)]
    return torch.stack([part.double().sum(0).cpu() for part in parts]).sum(0)[None].div(len(images)).float()


@torch.no_grad()
def measure_network(
    network: LatentModel, images: Tensor, beta: float | None, weight: Tensor | None, seed: int = 0
) -> dict[str, float | None]:
    """Measure a network as :func:`~monai_blurvae.metrics.measure_linear_vae` measures a linear VAE.

    The reconstruction term is a mean over a few latents of q(z|x), the KL exact.

    Args:
        network: the model; a module is used in evaluation mode and left as it was.
        images: in [−1, 1], ``(B, C, H, W)``, at least 11×11.
        beta: weight of the KL; None for no objective.
        weight: |W| as a half spectrum, ``(1, 1, *half)``; None for 1.
        seed: of the latents.

    Returns:
        The keys of :data:`FIGURES`; ``objective`` is None without a β.
    """
    device = _device_of(network)
    samples = samples_of(len(images))
    noise = torch.randn(len(images), samples, _latent_size(network), generator=torch_rng(seed, "yardstick"))
    reconstructions, kl, term = [], [], []
    with evaluation_mode(network):
        for x, part in zip(images.split(LATENTS_AT_ONCE), noise.split(LATENTS_AT_ONCE), strict=True):
            x = x.to(device)
            mu, log_var = network.encode(x)
            reconstructions.append(network.decode(mu).float().cpu())
            kl.append(kl_standard_normal(mu.double(), log_var.double()).cpu())
            for i in range(samples if beta is not None else 0):
                z = mu + torch.exp(0.5 * log_var) * part[:, i].to(mu)
                term.append(0.5 * _square((x - network.decode(z)).cpu().double(), weight))
    rate = float(torch.cat(kl).mean())
    objective = None if beta is None else float(torch.cat(term).mean()) + beta * rate
    return {**reconstruction_figures(torch.cat(reconstructions), images.cpu()), "kl": rate, "objective": objective}


def compare(network: LatentModel, images: Tensor, objective: nn.Module | None, fit: Fit) -> dict[str, Any]:
    """A network beside the linear VAE at its objective, and beside the linear L2 model at its rate.

    Args:
        network: the model; a module is used in evaluation mode and left as it was.
        images: in [−1, 1], ``(B, C, H, W)``, at least 11×11, on the CPU.
        objective: that the network was trained with; None for one without a closed form.
        fit: gives linear models of the network's latent size.

    Returns:
        ``latent_size``; ``beta`` (None without a closed form); ``weight``, what W is in words (likewise); ``samples``,
        latents of each image in the network's objective; ``network`` and ``linear``, the figures of the network and of
        the linear VAE at this β and W (None without a closed form); ``equal_rate``, those of the linear VAE of W = 1 at
        the β, under ``beta``, that has the network's KL on these images, with ``objective`` None; ``behind``, whether
        the network is, and ``verdict``, which says so in words. See :func:`verdict`.
    """
    standard = standard_of(objective, network, images)
    beta, weight, text = standard
    linear = None
    if beta is not None:
        vae = fit(weight)
        if not same_weight(vae.weight, weight):
            weight, text = vae.weight, KEPT_WEIGHT
        linear = measure_linear_vae(replace(vae, beta=beta), images)
    figures = measure_network(network, images, beta, weight)
    rate = figures["kl"]
    assert rate is not None
    plain = at_rate(fit(None), images, rate)
    content = {
        "latent_size": _latent_size(network),
        "beta": beta,
        "weight": None if beta is None else text,
        "samples": samples_of(len(images)),
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


def samples_of(images: int) -> int:
    """Latents that are drawn of each image for the expected reconstruction term."""
    return max(1, min(MOST_SAMPLES, LATENTS // images))


def same_weight(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two weights are the same but for rounding."""
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.allclose(first.double(), second.double(), rtol=1e-5, atol=0)


def _square(residual: Tensor, weight: Tensor | None) -> Tensor:
    """‖W r‖² of each image, ``(B,)``."""
    return residual.square().flatten(1).sum(1) if weight is None else weighted_spectral_sum(residual, weight.double())


def _latent_size(network: Any) -> int:
    return int(network.latent_size)


def _device_of(network: Any) -> torch.device:
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))
