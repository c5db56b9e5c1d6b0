"""Variational autoencoders that explicitly minimise their blur error, as a MONAI plugin."""

__version__ = "0.1.0"
