"""What a model was trained as, told by the parts that trained it, whatever way their arguments were set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.losses import ELBOLoss, L2Loss, WienerLoss
from monai_blurvae.networks import architecture_of
from monai_blurvae.transforms import RandSlicePatchd

PAPER_C = 0.025


class TrainedObjective(NamedTuple):
    """What the measures of a model depend on beside its weights: the objective that it was trained with.

    Attributes:
        loss: class name of its reconstruction term.
        trains_kernel: whether the kernel generator was trained, by the loss or beside it.
        wiener_c: the Wiener constant C; the paper's where the term has none.
        weighting: of the kernel's likelihood, see :func:`~monai_blurvae.functional.wiener_weight`.
        departures: why the objective is no bound on log p(x), a clause each; none if it is one.
        fixed_kernel: whether the loss had a fixed kernel, so that the generator's is not that of its likelihood.
        has_closed_form: whether a linear model of it has one.
    """

    loss: str
    trains_kernel: bool
    wiener_c: float
    weighting: str
    departures: tuple[str, ...]
    fixed_kernel: bool
    has_closed_form: bool

    @property
    def has_kernel(self) -> bool:
        """Whether the generator predicts the kernel of a likelihood."""
        return self.trains_kernel and not self.fixed_kernel

    @classmethod
    def of(cls, objective: ELBOLoss, train_kernel: bool, adversary: bool = False) -> TrainedObjective:
        """What a training was for.

        Args:
            objective: of the VAE step.
            train_kernel: whether the kernel generator is trained also where the objective does not use it.
            adversary: whether a discriminator's term joins it.
        """
        term = objective.term
        whitening = term if isinstance(term, WienerLoss) else getattr(term, "whitening", None)
        weighting = getattr(whitening, "weighting", "wiener")
        return cls(
            loss=type(getattr(term, "loss", term)).__name__,
            trains_kernel=train_kernel or objective.uses_kernel,
            wiener_c=float(getattr(whitening, "c", PAPER_C)),
            # flat weights are no kernel's, and the paper's are taken
            weighting="wiener" if weighting == "flat" else weighting,
            departures=tuple(_departures(objective, adversary)),
            fixed_kernel=objective.determinant == "fixed",
            has_closed_form=isinstance(term, (L2Loss, WienerLoss)) and not adversary,
        )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> TrainedObjective:
        """From the settings of a run."""
        return cls(**{**content, "departures": tuple(content["departures"])})


def settings_of(trainer: BlurVAETrainer) -> dict[str, Any]:
    """The settings of a training as its built parts have them, plain values by the names of the bundles' settings.

    Args:
        trainer: whose network, objective, optimizers and data are asked; of those that lack something, nothing is told.

    Returns:
        ``network``, ``loss``, ``beta``, … and, of a model of images, ``objective`` with the fields of
        :class:`TrainedObjective`.
    """
    objective, loader = trainer.loss_function, trainer.data_loader
    found = {
        **_of_network(trainer.model),
        **_of_objective(objective),
        **_of_optimizers(trainer),
        **_of_data(loader.dataset),
        "batch_size": loader.batch_size or getattr(loader.batch_sampler, "batch_size", None),
        "max_epochs": trainer.state.max_epochs,
        "precision": trainer.precision,
        "gradient_clip": trainer.gradient_clip,
        "seed": trainer.seed,
    }
    if isinstance(objective, ELBOLoss):
        trained = TrainedObjective.of(objective, trainer.train_kernel, trainer.adversary is not None)
        found["objective"] = trained._asdict()
    return found


def _of_network(network: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"network": type(network).__name__}
    names = ("spatial_dims", "in_channels", "latent_size", "kernel_size", "patch_size", "components", "states")
    found |= {name: getattr(network, name) for name in names if isinstance(getattr(network, name, None), int)}
    if hasattr(network, "image_shape"):
        found |= {"in_channels": network.image_shape[0], "patch_size": network.image_shape[-1]}
    architecture = architecture_of(network.state_dict())
    if architecture is not None:
        found |= {"architecture": architecture.architecture, "channels": list(architecture.channels)}
        found |= {"kernel_size": architecture.kernel_size}
    return found


def _of_objective(objective: Any) -> dict[str, Any]:
    term = getattr(objective, "term", None)
    found = {"loss": type(objective if term is None else getattr(term, "loss", term)).__name__}
    names = ("determinant", "beta", "warmup_epochs")
    found |= {name: getattr(objective, name) for name in names if hasattr(objective, name)}
    if found.get("determinant") == "fixed":
        found["fixed_variance"] = objective.fixed_variance
    return found | ({"wiener_c": term.c} if isinstance(term, WienerLoss) else {})


def _of_optimizers(trainer: BlurVAETrainer) -> dict[str, Any]:
    """The rates that the optimizers were made with; a schedule changes those of their groups."""
    found = {"optimizer": type(trainer.optimizer).__name__, "lr": trainer.optimizer.defaults["lr"]}
    kernel = trainer.kernel_optimizer
    return found if kernel is None else {**found, "kernel_lr": kernel.defaults["lr"]}


def _of_data(dataset: Any) -> dict[str, Any]:
    """Of a dataset of patches: how many of a volume, and across which axis its slices lie."""
    steps = getattr(getattr(dataset, "random_transform", None), "transforms", ())
    axes = [step.slice_axis for step in steps if isinstance(step, RandSlicePatchd)]
    found = {"patches_per_volume": dataset.patches_per_volume} if hasattr(dataset, "patches_per_volume") else {}
    return found | ({"slice_axis": axes[0]} if axes else {})


def _departures(objective: ELBOLoss, adversary: bool) -> Iterator[str]:
    term = objective.term
    if not term.is_likelihood:
        yield f"its loss, {type(getattr(term, 'loss', term)).__name__}, is no likelihood"
    elif isinstance(term, WienerLoss) and objective.determinant in ("omit", "epsilon"):
        yield f"its determinant, {objective.determinant!r}, is not that of its covariance"
    if objective.auxiliary_weights:
        yield "an auxiliary term was added to its loss"
    if adversary:
        yield "an adversarial term was added to its loss"
    if objective.beta != 1:
        yield f"its KL had the weight β = {objective.beta:g}"
