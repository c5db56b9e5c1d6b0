"""The first step of every bundle: read values as they were meant, find mistyped keys, say errors in one sentence."""

from __future__ import annotations

import difflib
import inspect
import os
import pydoc
import re
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_blurvae.distributed import join_processes, launched_processes
from monai_blurvae.errors import SettingsError, user_error
from monai_blurvae.memory import keep_freed_memory
from monai_blurvae.running import STEPS, references, running_config
from monai_blurvae.runs.configs import MULTI_GPU, source_folder

TEXT_KEYS = re.compile(r"(_dir|_file|_pattern|_uri|_name|^input|^datalist|^device)$")
"""Keys whose value is a text, above all paths, whatever it looks like."""

WORDS = {"null": None, "true": True, "false": False}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""What YAML and some shells leave as a text: 1e-3."""

SECTIONS = frozenset(
    (
        *STEPS,
        *("bundle_root", "device", "dataset_dir", "output_dir", "_meta_", "network_def", "network", "checkpoint"),
        *("train", "validate", "test", "dataset", "dataloader", "evaluator", "inferer", "handlers", "preprocessing"),
        *("postprocessing", "key_metric", "val_interval", "sampler", "trainer", "ckpt_dir", "ckpt_path"),
        *("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0"),
    )
)
"""Keys that MONAI's tools read by their name, so that nothing in the config has to refer to them."""


def begin() -> None:
    """First expression of every bundle.

    It reads the config by :func:`understand`.

    Raises:
        SettingsError: likewise, or if this is one of several processes, each of which would do all of the work.
    """
    understand()
    require_one_process(running_config().folder)


def begin_in_parallel() -> None:
    """First expression of a training in several processes, in place of :func:`begin`: they join.

    Raises:
        SettingsError: as :func:`understand`, or if torchrun has not started this process.
    """
    join_processes(understand())


def require_one_process(folder: Path | None) -> None:
    """Refuse to do all of the work in each of several processes.

    Args:
        folder: of the config's files, for the message; None if unknown.

    Raises:
        SettingsError: naming the overlay that they train together by.
    """
    count = launched_processes()
    if count > 1:
        overlay = MULTI_GPU if folder is None else folder / MULTI_GPU
        add = f"add '{overlay}' behind the others in --config_file to train in {count}, or "
        remedy = f"{add if folder is None or Path(overlay).is_file() else ''}start it without torchrun."
        raise SettingsError(f"WORLD_SIZE is {count}, but this config is for one process; {remedy}")


def understand() -> str:
    """Read the running config as it was meant, and refuse what is wrong in it; the device that it names.

    Texts that a command line or YAML meant as numbers, truth values or null become these; paths keep their ``#``, and
    are texts even where they look like numbers. Keys that nothing refers to and arguments that no component has are
    refused. From here on MONAI's command prints an error that a user can mend as one sentence, and the process keeps
    the memory that it frees for the next tensors.

    Raises:
        SettingsError: naming the key or argument, and the nearest real one.
    """
    if _is_command():
        sys.excepthook = _report
        _require_whole(sys.argv[1:])
    running = running_config()
    parser = running.parser
    before = parser.get()
    config = _understood(before)
    if config != before:
        parser.set(config)
        parser.parse(reset=True)
    check_names(config, own_names(config, running.folder or source_folder(running)))
    check_components(config, _locate_with(parser))
    device = parser.get_parsed_content("device") if "device" in config else "cpu"
    check_device(device)
    keep_freed_memory()
    return str(device)


def own_names(config: Mapping[str, Any], folder: Path | None) -> set[str]:
    """Names of the keys in a bundle's own files, as far as the config has been read from them.

    An overlay may replace all that refers to a key of the bundle, which stays a key all the same.

    Args:
        config: raw, of merged files and overrides.
        folder: of the bundle's files; None if unknown.
    """
    names: set[str] = set()
    for file in () if folder is None else folder.glob("*.json"):
        try:
            content = ConfigParser.load_config_file(str(file))
        except ValueError:  # no JSON; it was not read
            continue
        if isinstance(content, dict) and "imports" in content and content.keys() <= config.keys():
            names |= _names(content)
    return names


def check_names(config: Mapping[str, Any], own: Collection[str] = ()) -> None:
    """Refuse keys that turn nothing: top-level ones, and those of the sections train, validate and test.

    Args:
        config: raw, of merged files and overrides.
        own: names that are known, see :func:`own_names`.

    Raises:
        SettingsError: naming the key, and the nearest one that is used.
    """
    referred = set(references(config))
    used = {"#".join(name.split("#")[:length]) for name in referred for length in (1, 2)} | set(own)
    names = _names(config)
    for path in names:
        name = path.rpartition("#")[2]
        if path not in used and name not in SECTIONS and not name.startswith("_"):
            near = _nearest(path, sorted(names & used))
            raise SettingsError(f"'{path}' is no key of this config{near or '; nothing in it refers to it.'}")


def _names(config: Mapping[str, Any]) -> set[str]:
    """Top-level keys, and those of the sections train, validate and test behind a #."""
    parts = {name: config[name] for name in ("train", "validate", "test") if isinstance(config.get(name), Mapping)}
    return {*config, *(f"{section}#{name}" for section, content in parts.items() for name in content)}


def check_components(config: Any, locate: Callable[[str], Any], path: str = "") -> None:
    """Refuse arguments that a component does not have, before anything is built.

    Args:
        config: raw.
        locate: the class or function of a ``_target_``, or None where it cannot be told.
        path: id of ``config``.

    Raises:
        SettingsError: naming the argument and the nearest one that there is.
    """
    if isinstance(config, Mapping) and isinstance(config.get("_target_"), str):
        _check_arguments(config, locate(config["_target_"]), path)
    if isinstance(config, (Mapping, list)):
        pairs: Any = config.items() if isinstance(config, Mapping) else enumerate(config)
        for name, value in pairs:
            check_components(value, locate, f"{path}#{name}" if path else str(name))


def check_device(device: Any) -> None:
    """Refuse a device that is not there, before data is prepared for it.

    Args:
        device: as in ``torch.device``.

    Raises:
        SettingsError: with the reason that torch gives.
    """
    try:
        torch.empty(0, device=torch.device(device))
    except Exception as error:  # each backend has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"device is {device!r}, which this machine does not offer ({reason}); try cpu.") from error


def _check_arguments(component: Mapping[str, Any], target: Any, path: str) -> None:
    try:
        parameters = inspect.signature(target).parameters if callable(target) else None
    except ValueError:  # written in C
        parameters = None
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in component:
        if name not in parameters and not name.startswith("_"):
            near = _nearest(name, list(parameters))
            raise SettingsError(f"'{path}#{name}' is no argument of {component['_target_']}{near or '; remove it.'}")


def _locate_with(parser: ConfigParser) -> Callable[[str], Any]:
    def locate(target: str) -> Any:
        if target.startswith(("$", "@", "%")):
            return None
        name = target if "." in target else _first(parser.locator.get_component_module_name(target))
        name = name if name is None or name.endswith(target) else f"{name}.{target}"
        try:
            found = None if name is None else pydoc.locate(name)
        except pydoc.ErrorDuringImport:
            return None  # MONAI's own error tells more
        if found is None:
            raise SettingsError(f"there is no class or function {target!r}; correct its name, or install its package.")
        return found

    return locate


def _first(names: Any) -> str | None:
    return names[0] if isinstance(names, list) and names else names or None


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _understood(config: Mapping[str, Any]) -> dict[str, Any]:
    meant = {name: value if name in STEPS else _meant(name, value) for name, value in config.items()}
    for section in ("train", "validate"):
        for handler in (meant.get(section) or {}).get("handlers") or []:
            if not isinstance(handler, dict):
                continue  # a reference to one that stands elsewhere
            if "from_engine" in str(handler.get("output_transform", "")) and "'loss'" in handler["output_transform"]:
                # MONAI's own takes the loss out of a list of dictionaries alone, and gives a tuple for a dictionary
                handler["output_transform"] = "$__import__('monai_blurvae.metrics').metrics.loss_of"
    return meant


def _meant(name: str, value: Any) -> Any:
    """The value that a text from a command line or from YAML stands for."""
    if isinstance(value, Mapping):
        return {key: _meant(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [_meant("", item) for item in value]
    if isinstance(value, str) and value.lower() in WORDS:
        return WORDS[value.lower()]
    if TEXT_KEYS.search(name):
        return _text(name, value)
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return value


def _text(name: str, value: Any) -> Any:
    """A text, with the home folder for ~, in a form that MONAI leaves as it is: # and @ are parts of ids to it."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value.startswith(("$", "@", "%"))):
        return value
    if not isinstance(value, str):  # 0012 and 1_000 are other numbers by now than what was typed
        raise SettingsError(
            f"{name} was read as the number {value}, where a text is expected; write a folder as ./{value}, another "
            f"text as \"'{value}'\"."
        )
    text = os.path.expanduser(value)  # noqa: PTH111 - no path; and behind an = a shell leaves ~ as it is
    if "::" in text and not Path(text).exists():
        text = text.replace("::", "#")  # MONAI has changed it already
    if not re.search("[#@]", text):
        return text
    return "$" + repr(text).replace("#", r"\x23").replace("@", r"\x40")


def _require_whole(arguments: list[str]) -> None:
    """Refuse values that Fire has cut: to it a # behind a word begins a comment."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if re.match(r"\w+#", value):
            word = value.partition("#")[0]
            raise SettingsError(f"{value} was read as {word}, up to its #; write a folder as ./{value}.")


def _is_command() -> bool:
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that the user can mend as one line; everything else with its traceback."""
    shown = user_error(error)
    if shown is None:
        traceback.print_exception(kind, error, trace)
    else:
        print(f"error: {shown}", file=sys.stderr)
