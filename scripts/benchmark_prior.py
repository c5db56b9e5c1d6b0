"""Compare learned priors with their competitors in MR reconstruction: the same simulated scans for all, tuned alike.

The data are split by person as in the training. The mixture of EPLL is fitted to the training subjects, every method is
tuned on validation subjects at each setting, by as many trials, and the test subjects are reconstructed; --cross_dir
adds other data, on which nothing is tuned. What is there already is not made again: after an interruption, or to add
settings, methods or priors, run the command with the same --output once more. Its page is OUTPUT/comparison.md.

    python scripts/benchmark_prior.py --dataset_dir ~/t1 --image_pattern "*.nii.gz" --slice_axis 2 \
        --priors patch_vae=outputs/prior/0001 --accelerations 3 --coils 1 --phase smooth --noise 0.01 \
        --output outputs/priors
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from monai.bundle import ConfigParser

from monai_blurvae.data.datalist import Datalist, evaluation_datalist, load_datalist
from monai_blurvae.errors import RunFolderError, SettingsError, user_error
from monai_blurvae.files import default_cache_dir, make_folder, read_object, write_json
from monai_blurvae.handlers.checkpoint import load_weights
from monai_blurvae.metrics import fit_likelihoods
from monai_blurvae.networks import BlurVAE, PatchModel
from monai_blurvae.priors import BlurVAEPrior, PatchVAEPrior
from monai_blurvae.priors.patch_prior import PatchPrior
from monai_blurvae.runs import Run
from prior_comparison.comparison import CROSS, TEST, VALIDATION, Comparison
from prior_comparison.methods import EPLL, Method, classical_methods, prior_methods
from prior_comparison.report import write_report
from prior_comparison.scenes import PHASES, Setting, find_cases
from prior_comparison.training import fitted_mixture
from study.frames import import_pandas

SETTINGS, MIXTURE, RESULTS = "settings.json", "mixture.npz", "results"
LIKELIHOODS = ("variance", "kernel", "spectrum")
STRIDE = 4
"""Of patches of 8×8: as random offsets change in every step, a quarter of the patches makes the same image."""
FITTED_IMAGES = 256
"""Validation patches that the likelihood of a BlurVAE is fitted to."""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--priors", nargs="+", type=_named_run, default=[], metavar="NAME=RUN", help="runs of patch_prior or a BlurVAE")
    add("--likelihood", choices=LIKELIHOODS, default="spectrum", help="of a BlurVAE (default: %(default)s)")
    add("--output", type=Path, help="folder of the comparison")
    add("--accelerations", nargs="+", type=float, default=[2.0, 3.0, 4.0, 5.0])
    add("--coils", nargs="+", type=int, default=[1, 8])
    add("--phase", nargs="+", choices=list(PHASES), default=list(PHASES))
    add("--noise", nargs="+", type=float, default=[0.0, 0.01, 0.03], help="where the 99th percentile is 1")
    add("--methods", nargs="+", help="default: all; see --list")
    add("--list", action="store_true", help="name the methods and the values that they are tuned among, and end")
    add("--subjects", type=int, help="of the test set, the first; default: all")
    add("--validation_subjects", type=int, default=3, help="to tune on (default: %(default)s)")
    add("--slices", type=int, default=1, help="of each subject (default: %(default)s)")
    add("--steps", type=int, default=120, help="of half-quadratic splitting (default: %(default)s)")
    add("--mixture_patches", type=int, default=200_000, help="that EPLL's mixture is fitted to (default: %(default)s)")
    add("--crop_size", type=int, default=64, help="of the images that they are cut out of (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the split and the scans")
    add("--threads", type=int, help="of the CPU")
    data = parser.add_argument_group("data, as in the bundle")
    data.add_argument("--dataset_dir", type=Path)
    data.add_argument("--image_pattern", default="**/*.nii.gz")
    data.add_argument("--datalist", type=Path)
    data.add_argument("--slice_axis", type=int, choices=(0, 1, 2), default=1)
    data.add_argument("--cache_dir", type=Path, default=default_cache_dir())
    data.add_argument("--cross_dir", type=Path, help="other data, for what was tuned on the first")
    data.add_argument("--cross_pattern", default="**/*.nii.gz")
    return parser


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the program with a sentence where an option is out of its range."""
    if arguments.output is None and not arguments.list:
        parser.error("--output, the folder of the comparison, is missing.")
    for name in ("subjects", "validation_subjects", "slices", "steps", "mixture_patches", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}, but has to be at least 1.")
    if min(arguments.accelerations) < 1 or min(arguments.coils) < 1 or min(arguments.noise) < 0:
        parser.error("--accelerations and --coils have to be at least 1, and --noise at least 0.")
    if arguments.crop_size < 8 or arguments.crop_size % 8:
        parser.error(f"--crop_size is {arguments.crop_size}, but has to be a multiple of 8.")
    names = [name for name, _ in arguments.priors]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        parser.error(f"--priors names {twice!r} twice.")
    fixed = {method.name for method in classical_methods()} | {EPLL}
    taken = next((name for name in names if name in fixed), None)
    if taken:
        parser.error(f"--priors names a run {taken!r}, which is a method; give it another name.")
    known = [*_method_names(names)]
    unknown = [name for name in arguments.methods or () if name not in known]
    if unknown:
        parser.error(f"--methods names {unknown[0]!r}, but the methods are {', '.join(known)}.")


def load_prior(path: Path, likelihood: str) -> PatchPrior:
    """The prior of a run of ``bundles/patch_prior``, or of a ``BlurVAE`` with a likelihood of its validation patches.

    Raises:
        RunFolderError: if there is no such run.
        SettingsError: if the run trained another network.
        ValueError: if the bank of latents of a PatchVAE falls behind its bound.
    """
    run = Run(path)
    if not run.exists:  # a packed bundle's zip, or a file of weights
        return PatchVAEPrior.load(path, stride=STRIDE)
    parser = ConfigParser(dict(run.config))
    network = parser.get_parsed_content("network_def")
    if isinstance(network, PatchModel):
        return PatchVAEPrior.load(run.path, stride=STRIDE)
    if not isinstance(network, BlurVAE):
        raise SettingsError(f"{path} trained a {type(network).__name__}; give runs of a model of patches or a BlurVAE.")
    load_weights(network, run.model_file)
    dataset = parser.get_parsed_content("validate#dataset")
    images = torch.stack([dataset[i]["image"] for i in range(min(len(dataset), FITTED_IMAGES))])
    fitted = fit_likelihoods(network, images, uses_kernel=likelihood == "kernel")
    return BlurVAEPrior(network, fitted[likelihood])


def make_methods(arguments: argparse.Namespace, data: Datalist) -> list[Method]:
    """The methods that are asked for, with what they need loaded or fitted."""
    wanted = arguments.methods or [*_method_names([name for name, _ in arguments.priors])]
    priors: dict[str, PatchPrior] = {}
    if EPLL in wanted:
        priors[EPLL] = fitted_mixture(
            arguments.output / MIXTURE,
            data.items("training"),
            arguments.cache_dir.expanduser(),
            arguments.slice_axis,
            arguments.mixture_patches,
            arguments.crop_size,
            seed=arguments.seed,
            stride=STRIDE,
        )
    for name, path in arguments.priors:
        if name in wanted or f"{name}_ddp" in wanted:
            priors[name] = load_prior(path, arguments.likelihood)
    _require_same(arguments, data, {name: _digest(prior) for name, prior in priors.items()})
    methods = [*classical_methods(), *prior_methods(priors, arguments.steps)]
    return [method for method in methods if method.name in wanted]


def run(arguments: argparse.Namespace) -> None:
    """The comparison and its report."""
    import_pandas()  # before hours of reconstructions
    make_folder(arguments.output)
    data = load_datalist(arguments.dataset_dir, arguments.image_pattern, arguments.datalist, arguments.seed).require()
    methods = make_methods(arguments, data)
    axis, slices = arguments.slice_axis, arguments.slices
    cases = {
        VALIDATION: find_cases(data.items("validation"), axis, slices, arguments.validation_subjects),
        TEST: find_cases(data.items("test"), axis, slices, arguments.subjects),
    }
    if not cases[TEST]:
        raise SettingsError(f"datalist {arguments.datalist} has nothing under 'test', which is to be reconstructed.")
    if arguments.cross_dir is not None:
        cross = evaluation_datalist(arguments.cross_dir, arguments.cross_pattern).require()
        cases[CROSS] = find_cases(cross.items("test"), axis, slices, arguments.subjects)
    settings = [
        Setting(*combination)
        for combination in itertools.product(arguments.accelerations, arguments.coils, arguments.phase, arguments.noise)
    ]
    comparison = Comparison(methods, settings, cases, arguments.output / RESULTS, arguments.seed)
    comparison.run()
    write_report(comparison, arguments.output, data.remark)
    print(f"Tables and figures are in {arguments.output}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    check(parsed, parser)
    if parsed.list:
        _list_methods([name for name, _ in parsed.priors])
        return 0
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with FileLock(make_folder(parsed.output) / ".lock", blocking=False):
            run(parsed)
    except Timeout:
        print(f"error: another process is working on {parsed.output}; wait for it.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:
        shown = error if isinstance(error, ImportError) else user_error(error)
        if shown is None:
            raise
        print(f"error: {shown}", file=sys.stderr)
        return 1
    return 0


def _require_same(arguments: argparse.Namespace, data: Datalist, priors: Mapping[str, str]) -> None:
    """Refuse a folder of other scans or other models of the same name; models may be added."""
    path = arguments.output / SETTINGS
    split = json.dumps([data.training, data.validation, data.test])
    own = {
        "split": hashlib.sha256(split.encode()).hexdigest(),
        "slice_axis": arguments.slice_axis,
        "seed": arguments.seed,
        "steps": arguments.steps,
    }
    before = read_object(path, "choose another --output") if path.is_file() else {}
    known: dict[str, str] = before.pop("priors", {})
    differing = [name for name in own if name in before and before[name] != own[name]]
    differing += [f"the model {name}" for name in priors if known.get(name, priors[name]) != priors[name]]
    if differing:
        raise RunFolderError(
            f"{arguments.output} holds a comparison in which {differing[0]} was another; choose another --output."
        )
    write_json(path, own | {"priors": known | dict(priors)})


def _digest(prior: PatchPrior) -> str:
    """Of the weights."""
    digest = hashlib.sha256()
    for name, tensor in prior.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _method_names(priors: Sequence[str]) -> list[str]:
    return [method.name for method in _all_methods(priors)]


def _all_methods(priors: Sequence[str]) -> list[Method]:
    """Every method, with nothing loaded."""
    absent: Any = None
    named = [method for method in prior_methods(dict.fromkeys([EPLL, *priors], absent)) if method.name != f"{EPLL}_ddp"]
    return [*classical_methods(), *named]


def _list_methods(priors: Sequence[str]) -> None:
    for method in _all_methods(priors):
        trials = "; ".join(", ".join(f"{name} {value:g}" for name, value in values.items()) for values in method.grid)
        print(f"{method.name}: {method.label}{f' ({trials})' if trials else ''}")


def _named_run(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not path or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RUN, a name of letters, digits and _ and a folder")
    return name, Path(path).expanduser()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
