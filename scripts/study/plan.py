"""What a study trains: rows, budgets, and the cells that they make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from monai_blurvae.errors import SettingsError
from monai_blurvae.running import flattened, is_free, references

OF_A_CELL = ("beta", "seed")
"""The settings in which the cells of a row differ."""

MEASURED_ON = ("train#deterministic_transforms", "validate#random_transforms", "validate#dataset", "test#dataset")
"""The parts of a config that make the images on which cells are measured."""


class ImageSet(NamedTuple):
    """Images that tables and figures of the paper are about.

    Attributes:
        name: on the command line.
        label: the paper's name for them.
        bundle: name of a folder in ``bundles``.
        overlays: config files over the bundle's.
        paper: config file of the paper's setting, between the two.
        variable: of the environment, which names the folder of the images.
        eight_bit: whether the images are 8-bit, not interpolated, so that their likelihoods need dequantisation.
    """

    name: str
    label: str
    bundle: str
    overlays: tuple[str, ...]
    paper: str
    variable: str
    eight_bit: bool = False


HCP = ImageSet("hcp", "HCP", "hcp", (), "configs/paper_hcp.yaml", "HCP_DIR")
CELEBA = ImageSet("celeba", "CelebA", "celeba", (), "configs/paper_celeba.yaml", "CELEBA_DIR", eight_bit=True)
SETS: dict[str, ImageSet] = {
    images.name: images
    for images in (
        HCP,
        CELEBA,
        CELEBA._replace(name="celeba_hq", label="CelebA-HQ", overlays=("configs/celeba_256.yaml",), eight_bit=False),
        CELEBA._replace(name="cifar10", label="CIFAR-10", overlays=("configs/cifar10.yaml",), variable="CIFAR10_DIR"),
    )
}
"""The paper's sets. Without files of one's own, a bundle's built-in sample stands in, and the tables say so."""


class Row(NamedTuple):
    """A loss or a variant.

    Attributes:
        name: used in file names and on the command line.
        label: in tables and figures.
        overlays: config files over the set's, relative to the repository.
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


def _upsampling(row: Row) -> Row:
    """The row with the paper's second architecture."""
    overlays = (*row.overlays, "configs/architectures/upsample.yaml")
    return Row(f"{row.name}_upsample", f"{row.label}, 2nd network", overlays, row.slow)


LINEAR = Row("linear", "linear L2 model (exact)", ())
"""The closed form, which is measured and not trained: a row that is behind it is not trained either."""


L2, L1, SSIM, CE = _loss("l2", "L2"), _loss("l1", "L1"), _loss("ssim", "SSIM"), _loss("ce", "CE")
FFL, WIENER = _loss("ffl", "FFL"), _loss("wiener", "Wiener (the paper's)")
VGG, WATSON = _loss("vgg", "VGG", slow=True), _loss("watson", "Watson")
ROBUST, SIGMA_VAE = _loss("robust", "robust"), _loss("sigma_vae", "σ-VAE")


class StudyTable(NamedTuple):
    """Rows that are compared.

    Attributes:
        title: what they are.
        image_set: of :data:`SETS`, on which they are compared unless another is asked for.
        rows: the first is the one that the others are compared with.
    """

    title: str
    image_set: str
    rows: tuple[Row, ...]

    @property
    def reference(self) -> Row:
        """The row that the others are compared with."""
        return self.rows[0]


TABLES: dict[str, StudyTable] = {
    "1": StudyTable(
        "Table 1: the kernel, ε and C of the Wiener loss",
        "celeba",
        (
            L2,
            _ablation("fixed_2", "Σ fixed, variance 2"),
            _ablation("fixed_4", "Σ fixed, variance 4"),
            _ablation("fixed_16", "Σ fixed, variance 16"),
            _ablation("epsilon_small", "ε = 0.01"),
            _ablation("epsilon_large", "ε = 0.5"),
            WIENER,
            _ablation("c_0005", "C = 0.005"),
            _ablation("c_0025", "C = 0.025"),
            _ablation("c_01", "C = 0.1"),
        ),
    ),
    "2": StudyTable("Table 2: losses on photographs", "celeba", (L2, L1, SSIM, CE, FFL, WIENER, VGG, WATSON)),
    "3": StudyTable("Table 3: losses", "hcp", (L2, L1, SSIM, CE, FFL, WIENER, ROBUST, SIGMA_VAE)),
    "4": StudyTable(
        "Table 4: losses with the second architecture",
        "celeba",
        tuple(map(_upsampling, (L2, L1, SSIM, FFL, WIENER, VGG))),
    ),
    "5": StudyTable("Table 5: losses on CIFAR-10", "cifar10", (L2, FFL, CE, WIENER)),
    "6": StudyTable("Table 6: the bound of L2 and of the Wiener loss", "celeba", (L2, WIENER)),
    "ablations": StudyTable(
        "Further ablations of the Wiener loss",
        "hcp",
        (
            L2,
            _ablation("exact", "exact determinant"),
            _ablation("weight_gradient", "gradient through W"),
            _ablation("bounded_inverse", "bounded inverse"),
            _ablation("free_kernel", "free kernel"),
            _ablation("l2_scaled", "L2 · mean |W|²"),
            _ablation("circular_kernel", "circular kernel step"),
        ),
    ),
    "remedies": StudyTable(
        "Remedies",
        "hcp",
        (
            L2,
            _loss("spectral_gaussian", "spectral Gaussian"),
            _ablation("wiener_variance", "Wiener, fitted variance"),
            _ablation("wiener_spectrum", "Wiener, fitted spectrum"),
            _ablation("tempered_spectrum", "tempered spectrum"),
            _ablation("tempered_plus_spectrum_loss", "tempered spectrum + spectrum loss"),
            _ablation("l2_plus_spectrum_loss", "L2 + spectrum loss"),
            _ablation("wiener_plus_spectrum_loss", "Wiener + spectrum loss"),
            _ablation("adversarial", "L2 + adversary"),
        ),
    ),
}
"""The paper's tables, and what might do better."""

ROWS: dict[str, Row] = {row.name: row for table in TABLES.values() for row in table.rows}


class StudyFigure(NamedTuple):
    """A figure of the paper.

    Attributes:
        kind: ``"kernels"`` over the training, ``"grid"`` of images, or ``"spectra"``.
        image_set: of :data:`SETS`, unless another is asked for.
        table: whose rows are shown.
        images: in each half of a grid.
    """

    kind: str
    image_set: str
    table: str
    images: int = 0


FIGURES: dict[str, StudyFigure] = {
    "2": StudyFigure("kernels", "celeba", "6"),
    "3": StudyFigure("grid", "celeba_hq", "2", 3),
    "4": StudyFigure("grid", "hcp", "3", 4),
    "5": StudyFigure("grid", "cifar10", "5", 8),
    "6": StudyFigure("spectra", "celeba", "2"),
    "7": StudyFigure("grid", "celeba_hq", "2", 6),
    "8": StudyFigure("grid", "celeba", "2", 8),
    "9": StudyFigure("grid", "hcp", "3", 8),
}
"""The paper's figures of results."""

PLAIN_BETA = 1.0
"""The β of the plain evidence lower bound."""

BETAS = (0.1, 0.25, 0.5, PLAIN_BETA, 2.0, 4.0)
"""The β of every row: β itself, in nats over nats, the terms being sums over an image."""


class Budget(NamedTuple):
    """How much each cell trains.

    Learning rates, their schedule and warm-ups are those of the configs; warm-ups keep their share of the epochs.

    Attributes:
        overlays: config files between the bundle's and the set's; None for the paper's setting of the set.
        settings: further settings, over all files but a row's own.
        patches: training patches that each cell sees; None for the epochs of the config.
        validations: during the training.
        divisor: of the channels of every architecture.
        slow_betas: the β of a slow row; None for the others'.
        slow_share: share of the epochs that a slow row is trained for; the tables say so.
    """

    overlays: tuple[str, ...] | None
    settings: Mapping[str, Any]
    patches: int | None
    validations: int
    divisor: int = 1
    slow_betas: tuple[float, ...] | None = None
    slow_share: float = 1.0

    def epochs_of(self, row: Row, max_epochs: int) -> int:
        """The epochs of a row, of ``max_epochs``."""
        return max(1, round(max_epochs * self.slow_share)) if row.slow else max_epochs


NARROW = ("configs/architectures/narrow.yaml",)
BUDGETS: dict[str, Budget] = {
    "tiny": Budget(
        NARROW,
        {"latent_size": 128},
        patches=24_000,
        validations=4,
        divisor=8,
        slow_betas=(PLAIN_BETA,),
        slow_share=0.33,
    ),
    "small": Budget(NARROW, {}, patches=64_000, validations=8, divisor=4),
    "full": Budget((), {}, patches=256_000, validations=8),
    "paper": Budget(None, {}, patches=None, validations=20),
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


FEWEST_EPOCHS = 20
"""Of a training: where the images are so many that the budget's are seen in fewer, an epoch is a part of them, so that
warm-ups and validations have their places."""


def schedule(budget: Budget, per_epoch: int, max_epochs: int, batch_size: int) -> dict[str, int]:
    """Epochs, their length and ``val_interval`` that give each cell the budget's patches, by ids of the config.

    Args:
        budget: the budget.
        per_epoch: patches in an epoch.
        max_epochs: of the config, for a budget that goes by these.
        batch_size: patches in an iteration.
    """
    steps: dict[str, int] = {}
    epochs = max_epochs
    if budget.patches is not None:
        epochs = round(budget.patches / per_epoch)
        if epochs < FEWEST_EPOCHS:
            epochs = min(FEWEST_EPOCHS, -(-budget.patches // batch_size))
            steps["train#trainer#epoch_length"] = round(budget.patches / epochs / batch_size)
    return {"max_epochs": epochs, "val_interval": max(1, round(epochs / budget.validations)), **steps}


def shares_of_epochs(config: Mapping[str, Any], max_epochs: int) -> dict[str, int]:
    """Every warm-up of a config with the same share of ``max_epochs`` (20 of 400 in the paper).

    Args:
        config: whose plain numbers with a name that ends in ``_epochs`` are warm-ups.
        max_epochs: of the training.
    """
    return {
        name: round(value / config["max_epochs"] * max_epochs)
        for name, value in config.items()
        if name.endswith("_epochs") and isinstance(value, (int, float))
    }


def make_cells(
    rows: Iterable[Row], betas: Sequence[float], seeds: Sequence[int], slow_betas: Sequence[float] | None = None
) -> list[Cell]:
    """Every β and seed of every row; one seed of all rows comes before the next seed, so that tables fill evenly.

    Slow rows come first, so that the last process is not left alone with one of them.

    Args:
        rows: to train.
        betas: of each row.
        seeds: of the trainings.
        slow_betas: of a slow row; None for the same.
    """
    rows = sorted(rows, key=lambda row: not row.slow)
    slow = betas if slow_betas is None else slow_betas
    return [Cell(row.name, beta, s) for s in seeds for row in rows for beta in (slow if row.slow else betas)]


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
