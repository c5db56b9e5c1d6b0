"""Errors that a user can mend; each message is one sentence that says what was found and what to do."""

from __future__ import annotations


class BlurVAEError(Exception):
    """Base of the errors that are reported without a traceback on the command line."""


class DataError(BlurVAEError, ValueError):
    """An image file, a data list or a data folder that cannot be used."""


class SettingsError(BlurVAEError, ValueError):
    """A configuration key or value that cannot be used."""


class RunFolderError(BlurVAEError, OSError):
    """A folder or file of a run that cannot be read, written or reused."""


class NonFiniteLossError(BlurVAEError, RuntimeError):
    """A loss or a gradient that is infinite or not a number."""
