"""A finished run as files that need neither MONAI nor this package: TorchScript, ``torch.export`` and ONNX."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import save_net_with_metadata
from torch import Tensor

from monai_blurvae.errors import RunFolderError, SettingsError, WeightsError
from monai_blurvae.files import make_folder, read_object, write_text, writing_to
from monai_blurvae.networks import LatentImageModel
from monai_blurvae.run_files import (
    DATALIST,
    INFERENCE,
    METADATA,
    MODEL_CARD,
    PACKED_CARD,
    PACKED_INFERENCE,
    PACKED_METADATA,
)
from monai_blurvae.runs.run import Run
from monai_blurvae.trained.card import model_card
from monai_blurvae.trained.model import TrainedModel
from monai_blurvae.trained.scriptable import ScriptableModel
from monai_blurvae.trained.source import release_metadata, summary_of

TOLERANCE = 1e-5
"""Largest difference of an export's reconstructions from the network's, on [−1, 1]."""
TRACED_IMAGES, CHECKED_IMAGES = 2, 3
"""Numbers of images that an export is made and checked with: the batch has to be free."""


class Release(NamedTuple):
    """What goes into every format.

    Attributes:
        module: the network with its densities.
        reconstructor: the network for its forward alone.
        metadata: MONAI's, with ``preprocessing``.
        texts: other content by file names: the run's inference config and the model card.
    """

    module: ScriptableModel
    reconstructor: LatentImageModel
    metadata: Mapping[str, Any]
    texts: Mapping[str, str]

    def images(self, count: int) -> Tensor:
        """White noise in [−1, 1], ``(count, C, *image_size)``, since no one's image goes into an export."""
        shape = [count, *self.module.image_shape]
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def write_exports(run_dir: str | Path, output: str | Path, formats: Sequence[str]) -> Path:
    """Write a folder with the exports of a finished run or a packed bundle and its model card, whole or not at all.

    Each is read again, and its reconstructions of white noise are held against the network's. Where the run's
    validation images are not there any more, TorchScript's ``log_prob`` says so.

    Args:
        run_dir: folder of the run or bundle, or the bundle's zip.
        output: the new folder.
        formats: of :data:`FORMATS`.

    Returns:
        The folder.

    Raises:
        RunFolderError: if the run is not finished or broken, or the folder is there already.
        SettingsError: if a format is not known, or its packages are not installed.
        WeightsError: if an export does not give the network's reconstructions.
    """
    folder = Path(output).expanduser()
    if folder.exists():
        raise RunFolderError(f"{folder} is there already; choose another folder, or remove it.")
    _require_formats(formats)
    release = make_release(run_dir, formats)
    partial = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        with writing_to(folder):
            for name in formats:
                with _quiet():
                    FORMATS[name](release, partial)
            write_text(partial / MODEL_CARD, release.texts[MODEL_CARD])
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def make_release(run_dir: str | Path, formats: Sequence[str]) -> Release:
    """What every export of a run holds, with densities where TorchScript is among the formats.

    Arguments and errors as of :func:`write_exports`.
    """
    run = Run(run_dir)
    model = TrainedModel(run)
    densities = model.find_densities() if "torchscript" in formats else None
    metadata, inference, card = _papers(run)
    metadata["preprocessing"] = model.preprocessing()
    metadata["density_fitted_on"] = "" if densities is None else densities.fitted_on
    place = {
        "bundle_root": ".",
        "model_file": "$@bundle_root + '/models/model.pt'",
        "image_pattern": "*.nii.gz" if model.volumes else "**/*",
    }
    texts = {INFERENCE: json.dumps(inference | place), MODEL_CARD: card}
    _require_no_paths(run.path, [json.dumps(metadata), *texts.values()])
    return Release(model.scriptable(densities), model.reconstructor(), metadata, texts)


def _papers(run: Run) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Metadata, inference config and model card, which a packed bundle has already."""
    metadata, inference = (PACKED_METADATA, PACKED_INFERENCE) if run.is_packed else (METADATA, INFERENCE)
    for name in (metadata, inference, *([PACKED_CARD] if run.is_packed else [])):
        if not (run.path / name).is_file():
            raise RunFolderError(f"{run.name} holds no {name}; give the folder of a run of one of the bundles.")
    described, inferring = (read_object(run.path / name) for name in (metadata, inference))
    if run.is_packed:
        return described, inferring, (run.path / PACKED_CARD).read_text(encoding="utf-8")
    return release_metadata(described, summary_of(run.path)), inferring, model_card(run.path)


def write_torchscript(release: Release, folder: Path) -> None:
    """Write ``model.ts``, as MONAI's ``load_net_with_metadata`` reads it.

    Args:
        release: what goes in.
        folder: to write to.

    Raises:
        WeightsError: as of :func:`write_exports`.
    """
    path = folder / "model.ts"
    extra = {name: text.encode() for name, text in release.texts.items()}
    scripted = torch.jit.script(release.module)
    save_net_with_metadata(scripted, str(path), meta_values=release.metadata, more_extra_files=extra)
    _without_source_paths(path)
    _check("TorchScript", release, torch.jit.load(path))


def write_program(release: Release, folder: Path) -> None:
    """Write ``model.pt2``, for ``torch.export.load``, with any number of images; arguments and errors likewise."""
    path = folder / "model.pt2"
    program = torch.export.export(
        release.reconstructor, (release.images(TRACED_IMAGES),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
    )
    for module in program.graph_module.modules():
        for node in module.graph.nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
    extra = {METADATA: json.dumps(release.metadata), **release.texts}
    torch.export.save(program, path, extra_files=extra)
    _check("torch.export", release, torch.export.load(path).module())


def write_onnx(release: Release, folder: Path) -> None:
    """Write ``model.onnx``, input ``image``, output ``pred``, any number of images; arguments and errors likewise."""
    import onnx
    import onnxruntime

    path = folder / "model.onnx"
    exported = torch.onnx.export(
        release.reconstructor,
        (release.images(TRACED_IMAGES),),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # names files of this machine
    onnx.helper.set_model_props(model, {METADATA: json.dumps(release.metadata), **release.texts})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _check("ONNX", release, lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0]))


FORMATS: dict[str, Callable[[Release, Path], None]] = {
    "torchscript": write_torchscript,
    "export": write_program,
    "onnx": write_onnx,
}
"""What writes each format."""


def _require_formats(formats: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise SettingsError(f"formats must be some of {', '.join(FORMATS)}, but are {', '.join(formats) or 'none'}.")
    needed = ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed; run pip install 'monai-blurvae[export]'.")


@torch.no_grad()
def _check(name: str, release: Release, exported: Callable[[Tensor], Tensor]) -> None:
    images = release.images(CHECKED_IMAGES)
    difference = float((exported(images) - release.reconstructor(images)).abs().max())
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"the {name} export gives reconstructions that differ by up to {difference:.2g} from the network's; leave "
            "that format out, and report it."
        )


def _without_source_paths(path: Path) -> None:
    """Leave the records out that map TorchScript's lines to the files of this machine."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(name, source.read(name))
    whole.unlink()


def _require_no_paths(folder: Path, texts: Sequence[str]) -> None:
    """Refuse a path in what leaves, which transforms that a user added may hold."""
    places = [str(folder.absolute()), str(Path.home())]
    if (folder / DATALIST).is_file():
        places.append(str(read_object(folder / DATALIST).get("dataset_dir") or ""))
    for place in places:
        if len(place) > 1 and any(json.dumps(place)[1:-1] in text for text in texts):
            raise RunFolderError(
                f"{place} would go into the exports, since the config of {folder} names it; take it out of there."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of what it will leave behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
