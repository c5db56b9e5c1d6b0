"""The keys that a user turns: checked once, before anything is built."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_blurvae.bundle.extends import EXTENDS, extended
from monai_blurvae.engines.precision import PRECISIONS
from monai_blurvae.errors import SettingsError, user_error
from monai_blurvae.losses import LOSS_NAMES
from monai_blurvae.losses.elbo import DETERMINANTS
from monai_blurvae.losses.registry import check_combination
from monai_blurvae.losses.robust import REPRESENTATIONS
from monai_blurvae.losses.wiener import WEIGHTINGS
from monai_blurvae.networks.blurvae import ARCHITECTURES

NULL = ("null", "none")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Check(NamedTuple):
    """A condition on a value and its description."""

    accepts: Callable[[Any], bool]
    expected: str


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _at_least(smallest: int) -> Check:
    return Check(lambda v: _is_integer(v) and v >= smallest, f"a whole number of at least {smallest}")


def _one_of(*values: Any) -> Check:
    expected = "one of " + ", ".join(str(v) for v in values)
    return Check(lambda v: not isinstance(v, bool) and any(v == value for value in values), expected)


def _or_null(check: Check) -> Check:
    return Check(lambda v: v is None or check.accepts(v), f"{check.expected}, or null")


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or str(value).lower() in TRUE + FALSE


POSITIVE = Check(lambda v: _is_number(v) and v > 0, "a positive number")
NOT_NEGATIVE = Check(lambda v: _is_number(v) and v >= 0, "a number of at least 0")
SHARE = Check(lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
ODD = Check(lambda v: _is_integer(v) and v > 0 and v % 2 == 1, "a positive odd number")
BOOLEAN = Check(_is_boolean, "true or false")
TEXT = Check(lambda v: isinstance(v, str) and v != "", "a text")
PATH = Check(lambda v: isinstance(v, (str, Path)) and str(v) != "", "a path")
SIZES = Check(
    lambda v: (
        (_is_integer(v) and v > 0)
        or (isinstance(v, (list, tuple)) and len(v) == 3 and all(_is_integer(n) and n > 0 for n in v))
    ),
    "a positive whole number, or three of them",
)
CHANNELS = Check(
    lambda v: isinstance(v, (list, tuple)) and len(v) > 0 and all(_is_integer(n) and n > 0 for n in v),
    "a list of positive whole numbers, one for each block",
)

SETTINGS: dict[str, Check] = {
    "dataset_dir": _or_null(PATH),
    "image_pattern": TEXT,
    "datalist": _or_null(PATH),
    "cache_dir": PATH,
    "runs_dir": PATH,
    "run_dir": _or_null(PATH),
    "model_file": PATH,
    "output_dir": _or_null(PATH),
    "resume": Check(lambda v: v == "auto" or _is_boolean(v), "true, false or auto"),
    "skip_bad_files": BOOLEAN,
    "split": _one_of("training", "validation", "test", "all"),
    "slice_axis": _one_of(0, 1, 2),
    "volume_size": _or_null(SIZES),
    "partition_file": _or_null(PATH),
    "in_channels": _one_of(1, 3),
    "crop_size": _or_null(_at_least(1)),
    "eval_images": _or_null(_at_least(1)),
    "patch_size": _at_least(1),
    "patches_per_volume": _at_least(1),
    "eval_patches_per_volume": _at_least(1),
    "min_foreground": SHARE,
    "architecture": _one_of(*ARCHITECTURES),
    "channels": CHANNELS,
    "latent_size": _at_least(1),
    "kernel_size": ODD,
    "kernel_normalization": _one_of("softmax", "none"),
    "loss": _one_of(*LOSS_NAMES),
    "wiener_c": POSITIVE,
    "weighting": _one_of(*WEIGHTINGS),
    "detach_weight": _or_null(BOOLEAN),
    "determinant": _one_of(*DETERMINANTS),
    "epsilon": Check(_is_number, "a number"),
    "fixed_variance": POSITIVE,
    "tempering": SHARE,
    "whitening": BOOLEAN,
    "robust_representation": _one_of(*REPRESENTATIONS),
    "weights_dir": _or_null(PATH),
    "watson_weights": _or_null(PATH),
    "spectrum_weight": NOT_NEGATIVE,
    "adversarial_weight": NOT_NEGATIVE,
    "kernel_window": BOOLEAN,
    "train_kernel": BOOLEAN,
    "beta": NOT_NEGATIVE,
    "warmup_epochs": _at_least(0),
    "max_epochs": _at_least(1),
    "batch_size": _at_least(1),
    "lr": POSITIVE,
    "gradient_clip": _or_null(POSITIVE),
    "precision": _one_of(*PRECISIONS),
    "num_workers": _at_least(0),
    "seed": _at_least(0),
    "device": TEXT,
    "val_interval": _at_least(1),
    "checkpoint_minutes": _or_null(POSITIVE),
    "measures": BOOLEAN,
    "importance_samples": _at_least(1),
    "eight_bit": BOOLEAN,
}
"""Every key that a user may turn, in any bundle, and what it accepts."""

FREE_ON_RESUME = {
    "dataset_dir",
    "image_pattern",
    "datalist",
    "partition_file",
    "cache_dir",
    "runs_dir",
    "output_dir",
    "resume",
    "skip_bad_files",
    "max_epochs",
    "device",
    "num_workers",
    "checkpoint_minutes",
    "weights_dir",
}
"""Settings that a resumed run may change; the data is compared by its checksums instead of by its place."""

SECTIONS = (
    *(EXTENDS, "imports", "bundle_root", "run", "initialize", "training", "evaluating", "inference"),
    *("run_folder", "finished_run", "data", "images", "network_def", "network", "optimizer", "kernel_optimizer"),
    *("adversary", "objective"),
    *("train", "validate", "test", "dataset", "dataloader", "evaluator", "inferer", "handlers"),
    *("preprocessing", "postprocessing", "key_metric", "quarter_turns"),
)
"""Every other top-level key of the bundles."""

MONAI_KEYS = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")


def current_parser() -> ConfigParser:
    """The parser of the config in which the calling expression stands.

    MONAI gives an expression no handle on its own config, and drops unknown keys without a word; walking up the stack
    is the only way to the merged files and overrides.

    Raises:
        SettingsError: outside a config.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
        frame = frame.f_back
    raise SettingsError("this function reads the config that calls it; use it in a bundle's config.")


def default_cache_dir() -> str:
    """``$BLURVAE_CACHE_DIR``, or ``monai_blurvae`` in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return os.environ.get("BLURVAE_CACHE_DIR") or str(base / "monai_blurvae")


def boolean(value: Any) -> bool:
    """Truth of a value from a config or a command line, where ``false`` arrives as a text, which is truthy.

    Raises:
        SettingsError: for anything but true, false, yes, no, on, off, 1 and 0.
    """
    if not _is_boolean(value):
        raise SettingsError(f"expected true or false, but got {value!r}.")
    return value if isinstance(value, bool) else str(value).lower() in TRUE


def begin() -> None:
    """First expression of every bundle: put the shared config underneath, check the settings, fix all seeds.

    Raises:
        SettingsError: see :func:`~monai_blurvae.bundle.extends.extended` and :func:`check_settings`.
    """
    if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
        sys.excepthook = _report
    parser = current_parser()
    parser.set(_nulls_from_texts(extended(parser.get())))
    parser.parse(reset=True)
    set_determinism(check_settings(parser).get("seed", 0))


def _nulls_from_texts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for which a command line gave ``null``, which arrives as a text; MONAI drops what arrives as None."""
    return {
        name: None if name in SETTINGS and str(value).lower() in NULL and SETTINGS[name].accepts(None) else value
        for name, value in config.items()
    }


def check_settings(parser: ConfigParser) -> dict[str, Any]:
    """Check the names and values of a config's top-level keys.

    Args:
        parser: of the merged config.

    Returns:
        The resolved value of every setting that the config has.

    Raises:
        SettingsError: naming the key, what it holds, and what is expected or the nearest real key.
    """
    _check_names(parser.get())
    settings = {name: parser.get_parsed_content(name) for name in SETTINGS if name in parser.get()}
    for name, value in settings.items():
        if not SETTINGS[name].accepts(value):
            raise SettingsError(f"--{name} is {value!r}, but has to be {SETTINGS[name].expected}.")
    _check_together(settings)
    return settings


def _check_names(config: Mapping[str, Any]) -> None:
    known = {*SETTINGS, *SECTIONS, *MONAI_KEYS}
    unknown = [name for name in config if name not in known and not name.startswith("_")]
    if not unknown:
        return
    used = set(re.findall(r"[@%](\w+)", json.dumps(config, default=str)))
    for name in unknown:
        if name not in used:
            near = difflib.get_close_matches(name, [*SETTINGS, *SECTIONS], n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "nothing in the config refers to it."
            raise SettingsError(f"'{name}' is no key of this bundle; {hint}")


def _check_together(settings: Mapping[str, Any]) -> None:
    patch_size, channels = settings.get("patch_size"), settings.get("channels")
    if patch_size is not None and channels is not None and patch_size % 2 ** len(channels):
        raise SettingsError(
            f"--patch_size is {patch_size}, but {len(channels)} channels halve it {len(channels)} times, so that it "
            f"has to be a multiple of {2 ** len(channels)}."
        )
    kernel_size = settings.get("kernel_size")
    if patch_size is not None and kernel_size is not None and kernel_size > patch_size:
        raise SettingsError(f"--kernel_size is {kernel_size}, but has to be at most the patch_size {patch_size}.")
    if "loss" in settings:
        _check_loss(settings)
    if "device" in settings:
        _check_device(settings["device"])


def _check_loss(settings: Mapping[str, Any]) -> None:
    determinant, whitening = settings.get("determinant", "omit"), boolean(settings.get("whitening", False))
    try:
        check_combination(settings["loss"], determinant, whitening)
    except ValueError as error:
        raise SettingsError(f"--{error}") from error


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=torch.device(name))
    except Exception as error:  # each backend has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"--device is {name!r}, which this machine does not offer ({reason}); try cpu.") from error


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that the user can mend as one line; everything else with its traceback."""
    shown = user_error(error)
    if shown is None:
        traceback.print_exception(kind, error, trace)
    else:
        print(f"error: {shown}", file=sys.stderr)
