"""Errors that a user can mend; each message is one sentence that says what was found and what to do."""

from __future__ import annotations

import re
import traceback
from pathlib import Path


class BlurVAEError(Exception):
    """Base of the errors that are reported without a traceback on the command line.

    Torch makes an error in a worker process of a ``DataLoader`` anew in the main process, from its class and a text
    that has the worker's traceback before the sentence; as text it is the sentence alone there, too.
    """

    def __str__(self) -> str:
        return super().__str__().rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].strip()


class DataError(BlurVAEError, ValueError):
    """An image file, a data list or a data folder that cannot be used."""


class SettingsError(BlurVAEError, ValueError):
    """A configuration key or value that cannot be used."""


class RunFolderError(BlurVAEError, OSError):
    """A folder or file of a run that cannot be read, written or reused."""


class WeightsError(BlurVAEError, ValueError):
    """Pretrained weights that are missing or cannot be used."""


class NonFiniteLossError(BlurVAEError, RuntimeError):
    """A loss or a gradient that is infinite or not a number."""


class FirstProcessError(BlurVAEError, RuntimeError):
    """What the first of several processes has met, in the others, which cannot go on without it."""


def user_error(error: BaseException) -> BaseException | None:
    """The error to show: the first in a chain of causes that the user can mend, or None if there is none.

    MONAI wraps whatever an expression of a config raises in errors of its own. A ``ValueError`` counts if this package
    raised it. What another library raises while a component of the config is built counts too, with the component's
    name, if it is a ``ValueError`` or a ``TypeError``: then an argument is wrong.
    """
    cause: BaseException | None = error
    component = ""
    while cause is not None:
        if isinstance(cause, BlurVAEError) or (isinstance(cause, ValueError) and _raised_here(cause)):
            return cause
        wrong_name = isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause)
        if component and isinstance(cause, (ValueError, TypeError)) and (wrong_name or not _raised_here(cause)):
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
            return SettingsError(f"{component} cannot be built with these arguments: {reason}.")
        match = re.match(r"Failed to instantiate component '([^']+)'", str(cause))
        component = match.group(1) if match else ""
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(__file__).parent in Path(frames[-1].filename).parents
