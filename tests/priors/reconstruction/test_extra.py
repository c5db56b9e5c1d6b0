"""Without the extra ``recon``, each part that needs it says so."""

import importlib
import sys

import pytest

from monai_blurvae.errors import SettingsError
from monai_blurvae.priors.reconstruction import estimate_coil_maps
from monai_blurvae.priors.reconstruction.raw_data import read_raw_data
from tests.priors.phantom import scan

EXTRA = r"pip install 'monai-blurvae\[recon\]'"


def test_sigpy(monkeypatch):
    kspace, operator, _ = scan(coils=2)
    monkeypatch.setitem(sys.modules, "sigpy.mri.app", None)
    with pytest.raises(SettingsError, match=EXTRA):
        estimate_coil_maps(kspace, operator.mask)


def test_h5py(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SettingsError, match=EXTRA):
        read_raw_data(tmp_path / "a.h5")


def test_deepinv(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv.models", None)
    monkeypatch.delitem(sys.modules, "monai_blurvae.priors.deepinv_adapter", raising=False)
    with pytest.raises(ImportError, match=EXTRA):
        importlib.import_module("monai_blurvae.priors.deepinv_adapter")
