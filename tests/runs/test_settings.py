"""What a model was trained as is told by the parts that trained it, whatever way their arguments were set."""

import json
from pathlib import Path

import pytest
import torch

from monai_blurvae.losses import (
    BernoulliLoss,
    ELBOLoss,
    L2Loss,
    LaplaceLoss,
    RobustLoss,
    SigmaVAELoss,
    SpectrumLoss,
    WienerLoss,
)
from monai_blurvae.runs import Run, TrainedObjective
from tests.volumes import TINY, TRAIN, run

OMITTED = "its determinant, 'omit', is not that of its covariance"
NO_LIKELIHOOD = "its loss, {}, is no likelihood"
OBJECTIVES = {
    # objective, train_kernel, adversary: trains_kernel, departures
    "the paper's": (lambda: ELBOLoss(WienerLoss()), True, False, True, [OMITTED]),
    "epsilon": (
        lambda: ELBOLoss(WienerLoss(detach_weight=False), "epsilon"),
        True,
        False,
        True,
        [OMITTED.replace("omit", "epsilon")],
    ),
    "exact": (lambda: ELBOLoss(WienerLoss(detach_weight=False), "exact"), False, False, True, []),
    "fixed": (lambda: ELBOLoss(WienerLoss(), "fixed"), False, False, False, []),
    "L2 with a kernel beside it": (lambda: ELBOLoss(L2Loss()), True, False, True, []),
    "L2": (lambda: ELBOLoss(L2Loss()), False, False, False, []),
    "L1": (lambda: ELBOLoss(LaplaceLoss()), False, False, False, []),
    "robust": (lambda: ELBOLoss(RobustLoss()), False, False, False, []),
    "whitened": (lambda: ELBOLoss(SigmaVAELoss(whitening=WienerLoss())), False, False, True, []),
    "cross-entropy": (lambda: ELBOLoss(BernoulliLoss()), False, False, False, [NO_LIKELIHOOD.format("BernoulliLoss")]),
    "torch's": (lambda: ELBOLoss(torch.nn.MSELoss()), True, False, True, [NO_LIKELIHOOD.format("MSELoss")]),
    "auxiliary": (
        lambda: ELBOLoss(L2Loss(), auxiliary=[[0.03, SpectrumLoss()]]),
        False,
        False,
        False,
        ["an auxiliary term was added to its loss"],
    ),
    "adversary": (lambda: ELBOLoss(L2Loss()), False, True, False, ["an adversarial term was added to its loss"]),
    "beta": (lambda: ELBOLoss(L2Loss(), beta=0.7), False, False, False, ["its KL had the weight β = 0.7"]),
}


@pytest.mark.parametrize(
    ("objective", "kernel", "adversary", "trains", "departures"), OBJECTIVES.values(), ids=OBJECTIVES
)
def test_an_objective_tells_what_it_is(objective, kernel, adversary, trains, departures):
    built = objective()
    found = TrainedObjective.of(built, kernel, adversary)
    assert found.trains_kernel is trains
    assert found.departures == tuple(departures)
    assert found.fixed_kernel is (built.determinant == "fixed")
    assert found.has_kernel is (trains and built.determinant != "fixed")
    assert found.has_closed_form is (isinstance(built.term, (L2Loss, WienerLoss)) and not adversary)
    assert TrainedObjective.read(json.loads(json.dumps(found._asdict()))) == found


@pytest.mark.parametrize(("weighting", "told"), [("flat", "wiener"), ("bounded_inverse", "bounded_inverse")])
def test_the_weighting_and_c_are_those_of_the_term(weighting, told):
    found = TrainedObjective.of(ELBOLoss(WienerLoss(0.1, weighting)), True)
    assert (found.weighting, found.wiener_c) == (told, 0.1)


def test_settings_are_those_that_trained_whatever_way_they_were_set(hcp_dir, cache_dir, tmp_path):
    nested = {
        "train#term#c": 0.1,
        "train#objective#beta": 4.0,
        "network_def#latent_size": 6,
        "train#random_transforms#0#slice_axis": 2,
        "validate#random_transforms#0#slice_axis": 2,
        "optimizer#lr": 0.002,
    }
    given = {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "run_dir": str(tmp_path / "run")}
    run("training", TRAIN, **given, **TINY | {"max_epochs": 1}, **nested)
    settings = Run(tmp_path / "run").settings
    told = {"wiener_c": 0.1, "beta": 4.0, "latent_size": 6, "slice_axis": 2, "lr": 0.002, "kernel_lr": 0.001}
    told |= {"loss": "WienerLoss", "network": "BlurVAE", "patch_size": 32, "channels": [4, 8], "batch_size": 8}
    assert {name: settings[name] for name in told} == told
    objective = Run(tmp_path / "run").objective()
    assert objective.wiener_c == 0.1
    assert "its KL had the weight β = 4" in objective.departures
    assert Run(tmp_path / "run").closed_form_objective().beta == 4.0


def test_there_are_none_without_a_run():
    assert Run(Path("nowhere")).settings == {}
    assert Run(Path("nowhere")).closed_form_objective() is None
