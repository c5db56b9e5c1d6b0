"""What every reconstruction term has in common, and any other loss module as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from monai_blurvae.functional import at_least_float32, without_autocast

REDUCTIONS = ("none", "mean", "sum")


def as_size(image_size: int | Sequence[int]) -> tuple[int, ...]:
    """The spatial size of images; one number stands for the two sides of a square."""
    return (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)


class ReconstructionTerm(nn.Module, ABC):
    """A term of the objective that compares reconstructions with images, one number for each image.

    A term sums over the pixels and channels of an image, never averages over them, so that its balance with the KL
    does not depend on the size of the image. It is the sum of the terms of the single channels, and a log-density that
    of independent channels, but for the two terms that see colours,
    :class:`~monai_blurvae.losses.VGGFeatureLoss` and :class:`~monai_blurvae.losses.WatsonLoss`: they take grey or RGB
    images, and do not grow with the number of channels.

    A term with running estimates, called in training mode, takes the batch into them first, as a batch norm does. Given
    the estimates, that is in evaluation mode or by :meth:`per_image`, the value of an image never depends on the others
    of its batch; call ``eval()`` before a validation.

    Args:
        reduction: ``"none"`` for ``(B,)``, ``"mean"`` for the mean over the batch only, ``"sum"`` for the sum.

    Raises:
        ValueError: for an unknown reduction.
    """

    uses_kernel: bool = False
    """Whether the term depends on the blur kernel, so that the trainer has to train the kernel generator."""

    is_likelihood: bool = False
    """Whether exp(−term) is, up to constants, a normalised density of the image; such a term has ``log_prob``."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, but is {reduction!r}.")
        self.reduction = reduction

    def update(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> None:
        """Take a training batch into the running estimates of a term that has some.

        A term changes by nothing else than this and its parameters. Whoever calls the term itself in training mode
        need not call it; whoever calls :meth:`per_image` does, before it.
        """

    @abstractmethod
    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """The term of each image, ``(B,)``, outside autocast and of tensors of at least float32."""

    def forward(self, input: Tensor, target: Tensor, kernel: Tensor | None = None) -> Tensor:
        """Compare reconstructions with images, in training mode after :meth:`update`.

        Autocast is off inside, and half precision is lifted to float32: sums over thousands of pixels need it.

        Args:
            input: reconstructions x̂, ``(B, C, *image_size)``.
            target: images x, like ``input``.
            kernel: blur kernels ``(B, 1, *kernel_size)`` for the terms that use one.

        Returns:
            ``(B,)`` or, reduced, a number without dimensions.

        Raises:
            ValueError: if the shapes differ, or a kernel is needed and missing.
        """
        if input.shape != target.shape:
            raise ValueError(f"input has shape {tuple(input.shape)}, but target has {tuple(target.shape)}.")
        if self.uses_kernel and kernel is None:
            raise ValueError(f"{type(self).__name__} needs the blur kernel of each image.")
        with without_autocast(target.device):
            input, target = at_least_float32(input), at_least_float32(target)
            kernel = None if kernel is None else at_least_float32(kernel)
            if self.training:
                self.update(input.detach(), target, kernel)
            values = self.per_image(input, target, kernel)
        if self.reduction == "mean":
            return values.mean()
        return values.sum() if self.reduction == "sum" else values


class PlainTerm(ReconstructionTerm):
    """The values of a module called as ``loss(input, target)``, summed over everything but the batch.

    It makes a term of PyTorch's losses and MONAI's, and of your own: ``torch.nn.MSELoss()`` is twice
    :class:`~monai_blurvae.losses.L2Loss`. :class:`~monai_blurvae.losses.ELBOLoss` applies it by itself.

    Args:
        loss: the module. If it has an attribute ``reduction``, that is set to ``"none"``. It returns one number for
            each image, ``(B,)``, or one for each of its pixels, ``(B, ...)``.
        reduction: as in :class:`~monai_blurvae.losses.ReconstructionTerm`.

    Raises:
        ValueError: if ``loss`` is no module; when called, if it returns something else.

    Example:
        >>> import torch
        >>> PlainTerm(torch.nn.MSELoss())(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4))
        tensor(16.)
    """

    def __init__(self, loss: nn.Module, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not isinstance(loss, nn.Module):
            raise ValueError(
                f"a term must be a torch.nn.Module that is called with (input, target), but is {loss!r}; give an "
                "object such as torch.nn.MSELoss()."
            )
        if hasattr(loss, "reduction"):
            setattr(loss, "reduction", "none")  # noqa: B010 (nn.Module promises a tensor)
        self.loss = loss

    def per_image(self, input: Tensor, target: Tensor, kernel: Tensor | None) -> Tensor:
        """The module's values of each image, summed, ``(B,)``."""
        values = self.loss(input, target)
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(target):
            found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"type {type(values).__name__}"
            raise ValueError(
                f"{type(self.loss).__name__} returned a value of {found} for a batch of {len(target)} images, where a "
                f"tensor with the batch first is expected, ({len(target)},) or ({len(target)}, ...); leave the sum "
                "over the pixels and the mean over the batch to the term."
            )
        return values.flatten(1).sum(1) if values.ndim > 1 else values


def as_term(loss: nn.Module) -> ReconstructionTerm:
    """A term as it is, any other module as :class:`PlainTerm`."""
    return loss if isinstance(loss, ReconstructionTerm) else PlainTerm(loss)
