import json
import logging
import shutil
import warnings
from collections import Counter

import pytest
import torch

from monai_blurvae.networks.perceptual import PERCEPTUAL_NETS, default_weights_dir, weights_file
from tests.volumes import ROOT, TINY, TRAIN, make_dataset, run
from tests.weights import save_random_weights

torch.set_num_threads(1)  # the networks here are so small that two threads only wait for each other


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first, lest one process ends with a long file while the other has no more."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def hcp_dir(tmp_path_factory):
    """Five small subjects in HCP's layout."""
    return make_dataset(tmp_path_factory.mktemp("hcp"))


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def finished_run(hcp_dir, cache_dir, tmp_path_factory):
    """A finished tiny training: (output_dir, the run's folder)."""
    output_dir = tmp_path_factory.mktemp("outputs")
    run("training", TRAIN, dataset_dir=str(hcp_dir), cache_dir=cache_dir, output_dir=str(output_dir), **TINY)
    return output_dir, output_dir / "0001"


@pytest.fixture(scope="session")
def two_validation_run(cache_dir, tmp_path_factory):
    """The folder of a finished tiny training with two validation subjects, beside whom scans are scored."""
    work = tmp_path_factory.mktemp("scoring")
    make_dataset(work / "data", subjects=6)
    entries = [{"image": str(path), "subject": path.parts[-3]} for path in sorted((work / "data").rglob("*.nii.gz"))]
    lists = {"training": entries[:2], "validation": entries[2:4], "test": entries[4:]}
    (work / "datalist.json").write_text(json.dumps(lists))
    given = {"datalist": str(work / "datalist.json"), "cache_dir": cache_dir, "run_dir": str(work / "run")}
    run("training", TRAIN, **given, **TINY)
    return work / "run"


@pytest.fixture(scope="session")
def lpips_weights():
    """The folder with the real weights of AlexNet, VGG16 and their LPIPS heads."""
    folder = default_weights_dir()
    for net in PERCEPTUAL_NETS:
        if not weights_file(net, folder).exists():
            pytest.skip(f"there is no lpips_{net}.pt in {folder}: run python scripts/convert_lpips.py")
    return folder


@pytest.fixture(scope="session")
def random_weights_dir(tmp_path_factory):
    """Random weights of both networks in the same format."""
    return save_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def root(tmp_path):
    """A copy of what a user has, so that outputs do not land in the repository."""
    for name in ("bundles", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_report(request, monkeypatch):
    """Drawing one takes a second after each of a hundred runs; those of the shared fixtures have theirs."""
    if "draws_report" not in request.keywords:
        monkeypatch.setattr("monai_blurvae.bundle.run_report.write_report", lambda run_dir, evaluation_dir=None: "")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.delenv("HCP_DIR", raising=False)
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    own = logging.getLogger("monai_blurvae")  # what another test's bundle made of it by its logging.conf
    own.propagate = True
    own.setLevel(logging.NOTSET)
    warnings.filterwarnings("ignore", message="parsing config_file")
