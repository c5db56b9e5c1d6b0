"""What a study trains: rows, budgets, and the cells that they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from monai_blurvae.bundle.running import flattened, is_free, references
from monai_blurvae.errors import SettingsError

OF_A_CELL = ("beta", "seed")
"""The settings in which the cells of a row differ."""

MEASURED_ON = ("train#deterministic_transforms", "validate#random_transforms", "validate#dataset", "test#dataset")
"""The parts of a config that make the images on which cells are measured."""


class Row(NamedTuple):
    """A loss or a variant.

    Attributes:
        name: used in file names and on the command line.
        label: in tables and figures.
        overlays: config files over the bundle's, relative to the repository. They set ``beta``, the middle of its β
            grid: losses differ in scale, so that each has its own.
        slow: whether a training takes many times as long as the others'.
    """

    name: str
    label: str
    overlays: tuple[str, ...]
    slow: bool = False


def _loss(name: str, label: str, slow: bool = False) -> Row:
    return Row(name, label, (f"configs/losses/{name}.yaml",), slow)


def _ablation(name: str, label: str) -> Row:
    return Row(name, label, (f"configs/ablations/{name}.yaml",))


REFERENCE = "l2"
"""The row that the others are compared with: the common rate lies within its rates."""

LINEAR = Row("linear", "linear L2 model (exact)", ())
"""The closed form, which is measured and not trained: a row that is behind it is not trained either."""

TABLE_3 = (
    _loss("l2", "L2"),
    _loss("l1", "L1"),
    _loss("ssim", "SSIM"),
    _loss("ce", "CE"),
    _loss("ffl", "FFL"),
    _loss("vgg", "VGG", slow=True),
    _loss("watson", "Watson"),
    _loss("wiener", "Wiener (the paper's)"),
    _loss("robust", "robust"),
    _loss("sigma_vae", "σ-VAE"),
    _loss("spectral_gaussian", "spectral Gaussian"),
    Row("default", "default of the bundle", ()),
)

TABLE_1 = (
    _ablation("fixed_2", "Σ fixed, variance 2"),
    _ablation("fixed_4", "Σ fixed, variance 4"),
    _ablation("epsilon_small", "ε small"),
    _ablation("epsilon_large", "ε large"),
    _ablation("c_0005", "C = 0.005"),
    _ablation("c_0025", "C = 0.025"),
    _ablation("c_01", "C = 0.1"),
    _ablation("exact", "exact determinant"),
    _ablation("weight_gradient", "gradient through W"),
    _ablation("bounded_inverse", "bounded inverse"),
    _ablation("free_kernel", "free kernel"),
    _ablation("l2_scaled", "L2 · mean |W|²"),
)

REMEDIES = (
    _ablation("circular_kernel", "circular kernel step"),
    _ablation("wiener_variance", "Wiener, fitted variance"),
    _ablation("wiener_spectrum", "Wiener, fitted spectrum"),
    _ablation("tempered_spectrum", "tempered spectrum"),
    _ablation("tempered_plus_spectrum_loss", "tempered spectrum + spectrum loss"),
    _ablation("l2_plus_spectrum_loss", "L2 + spectrum loss"),
    _ablation("wiener_plus_spectrum_loss", "Wiener + spectrum loss"),
    _ablation("adversarial", "L2 + adversary"),
)

TABLES: dict[str, tuple[Row, ...]] = {"3": TABLE_3, "1": TABLE_1, "remedies": REMEDIES}
"""The paper's Table 3, the comparison of losses, its Table 1, the ablation, and what might do better."""

ROWS: dict[str, Row] = {row.name: row for rows in TABLES.values() for row in rows}


class Budget(NamedTuple):
    """How much each cell trains, and how fine its row's β grid is.

    Attributes:
        overlays: config files between the bundle's and the row's.
        settings: further settings, over all files.
        patches: training patches that each cell sees; None to go by ``epochs``.
        epochs: used when ``patches`` is None.
        validations: during the training.
        multipliers: of a row's β.
        slow_multipliers: likewise of a slow row; None for the same.
        slow_share: share of the epochs that a slow row is trained for; the tables say so.
    """

    overlays: tuple[str, ...]
    settings: Mapping[str, Any]
    patches: int | None
    epochs: int
    validations: int
    multipliers: tuple[float, ...]
    slow_multipliers: tuple[float, ...] | None = None
    slow_share: float = 1.0

    def epochs_of(self, row: Row, max_epochs: int) -> int:
        """The epochs of a row, of ``max_epochs``."""
        return max(1, round(max_epochs * self.slow_share)) if row.slow else max_epochs


NARROW: Mapping[str, Any] = {"latent_size": 128}
BUDGETS: dict[str, Budget] = {
    "tiny": Budget(
        overlays=("configs/architectures/narrow.yaml",),
        settings={**NARROW, "channels": [8, 16, 32, 64], "batch_size": 32},
        patches=24_000,
        epochs=0,
        validations=4,
        multipliers=(0.4, 1.0, 2.5),
        slow_multipliers=(1.0,),
        slow_share=0.33,
    ),
    "small": Budget(
        overlays=("configs/architectures/narrow.yaml",),
        settings=NARROW,
        patches=128_000,
        epochs=0,
        validations=10,
        multipliers=(0.1, 0.316, 1.0, 3.16, 10.0),
    ),
    "paper": Budget(
        overlays=("configs/architectures/transposed.yaml",),
        settings={"latent_size": 256, "kernel_size": 11, "lr": 1e-4},
        patches=None,
        epochs=400,
        validations=20,
        multipliers=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    ),
}


class Cell(NamedTuple):
    """One training."""

    row: str
    beta: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and files."""
        return f"{self.row}-beta{self.beta:g}-seed{self.seed}"


def schedule(budget: Budget, per_epoch: int) -> dict[str, int]:
    """``max_epochs`` and ``val_interval`` that give each cell the budget's patches.

    Args:
        budget: the budget.
        per_epoch: patches in an epoch.
    """
    epochs = budget.epochs
    if budget.patches is not None:
        epochs = max(1, round(budget.patches / per_epoch))
    return {
        "max_epochs": epochs,
        "val_interval": max(1, round(epochs / budget.validations)),
    }


def warmup_epochs(config: Mapping[str, Any], max_epochs: int) -> int:
    """The same share of ``max_epochs`` as ``config`` has it (20 of 400 in the paper)."""
    return round(config["warmup_epochs"] / config["max_epochs"] * max_epochs)


def make_cells(
    rows: Iterable[Row],
    betas: Mapping[str, float],
    multipliers: Sequence[float],
    seeds: Sequence[int],
    slow_multipliers: Sequence[float] | None = None,
) -> list[Cell]:
    """Every β and seed of every row; one seed of all rows comes before the next seed, so that tables fill evenly.

    Slow rows come first, so that the last process is not left alone with one of them.

    Args:
        rows: to train.
        betas: middle of the β grid by name of row.
        multipliers: of these.
        seeds: of the trainings.
        slow_multipliers: of a slow row's β; None for the same.
    """
    rows = sorted(rows, key=lambda row: not row.slow)
    slow = multipliers if slow_multipliers is None else slow_multipliers
    return [
        Cell(row.name, float(f"{betas[row.name] * m:.3g}"), s)
        for s in seeds
        for row in rows
        for m in (slow if row.slow else multipliers)
    ]


def read_config(file: Path) -> dict[str, Any]:
    """The content of a JSON or YAML file.

    Raises:
        SettingsError: if the file is missing or is no config.
    """
    if not file.is_file():
        raise SettingsError(f"the config {file} is not there.")
    try:
        content = ConfigParser.load_config_file(str(file))
    except Exception as error:  # the parsers of JSON and YAML have errors of their own
        raise SettingsError(f"the config {file} cannot be read ({type(error).__name__}).") from error
    if not isinstance(content, dict):
        raise SettingsError(f"the config {file} is no dictionary.")
    return content


def merged_config(files: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What MONAI makes of config files, the later over the earlier, and of a command line's overrides.

    Args:
        files: the bundle's own, then overlays.
        overrides: values by their ids.

    Raises:
        SettingsError: if a file is missing or is no config.
    """
    for file in files:
        read_config(file)
    try:
        parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
        for id, value in (overrides or {}).items():
            parser[id] = value
    except (KeyError, ValueError, IndexError) as error:
        shown = ", ".join(str(file) for file in files)
        raise SettingsError(f"the configs {shown} do not fit together ({error}); correct the last of them.") from error
    config: dict[str, Any] = parser.get()
    return config


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """On what a training's result depends but β and seed, ``{id: value}``, with the number of its epochs.

    Args:
        config: merged.
    """
    items = flattened(json.loads(json.dumps(config)))
    return {
        id: value for id, value in items.items() if id == "max_epochs" or not (is_free(id) or id.startswith(OF_A_CELL))
    }


def evaluation_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """On what the images depend on which cells are measured, ``{id: value}``.

    Args:
        config: merged.
    """
    parser = ConfigParser(dict(config))
    parts = {id: parser.get(id) for id in MEASURED_ON}
    names = {name: config[name] for name in references(parts) if name in config and name not in ("data", "cache_dir")}
    return {
        id: value for id, value in json.loads(json.dumps(flattened({**parts, **names}))).items() if value is not None
    }


def same_rows(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The first row with the same settings as each row: Table 1's C = 0.025 is Table 3's Wiener, and trained once.

    Args:
        settings: of each row, as :func:`settings_of` gives them.
    """
    first: dict[str, str] = {}
    for name in settings:
        first[name] = next(other for other in settings if dict(settings[other]) == dict(settings[name]))
    return first


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, the settings that both have and that differ; a setting that is new since then is no difference."""
    return [f"{k} was {before[k]!r}, is {now[k]!r}" for k in sorted(before.keys() & now.keys()) if before[k] != now[k]]
