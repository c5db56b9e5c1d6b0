"""A finished run out of the lab: one object for Python, exports that need nothing of this package, a model card."""

from monai_blurvae.trained.model import TrainedModel

__all__ = ["TrainedModel"]
