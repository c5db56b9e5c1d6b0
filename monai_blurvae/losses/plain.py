"""Any loss module as a reconstruction term."""

from __future__ import annotations

from torch import Tensor, nn

from monai_blurvae.losses.base import ReconstructionTerm


class PlainTerm(ReconstructionTerm):
    """The values of a module called as ``loss(input, target)``, summed over everything but the batch.

    It makes a term of PyTorch's losses and MONAI's, and of your own: ``torch.nn.MSELoss()`` is twice
    :class:`~monai_blurvae.losses.L2Loss`. :class:`~monai_blurvae.losses.ELBOLoss` applies it by itself.

    Args:
        loss: the module. If it has an attribute ``reduction``, that is set to ``"none"``. It returns one number for
            each image, ``(B,)``, or one for each of its pixels, ``(B, ...)``.
        reduction: as in :class:`~monai_blurvae.losses.base.ReconstructionTerm`.

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
