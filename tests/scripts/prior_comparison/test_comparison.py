import pytest
import torch

from monai_blurvae.errors import RunFolderError
from prior_comparison.comparison import Comparison
from prior_comparison.methods import TRIALS, Method, classical_methods, prior_methods
from prior_comparison.scenes import Setting, find_cases
from tests.priors.gaussian import GaussianPrior, power_law
from tests.volumes import brain, save

SETTING = Setting(2.0, 1, "smooth", 0.01)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    paths = [save(folder / f"{i}.nii.gz", brain(i)) for i in range(3)]
    found = find_cases([{"image": str(path), "subject": path.name[0]} for path in paths], 2, 1, None)
    return {"validation": found[:1], "test": found[1:]}


class Shrunk:
    """The zero-filled image times a number: what it is tuned to is known."""

    calls = 0

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, kspace, operator, noise_std=0.0, phase=None):
        Shrunk.calls += 1
        return self.factor * operator.adjoint(kspace)


def test_the_best_parameters_of_the_validation_slices_are_used(cases, tmp_path):
    method = Method("shrunk", "shrunk", Shrunk, tuple({"factor": factor} for factor in (0.1, 1.0, 2.0)))
    comparison = Comparison([method], [SETTING], cases, tmp_path)
    Shrunk.calls = 0
    comparison.run()
    assert comparison.tuned(SETTING, method) == {"factor": 1.0}
    assert Shrunk.calls == 3 + 2
    results = comparison.finished(SETTING, method, "test")
    assert [result.subject for result in results] == ["1", "2"]
    assert all(result.parameters == {"factor": 1.0} and result.measures["psnr"] > 15 for result in results)
    comparison.run()
    assert Shrunk.calls == 5  # nothing anew
    (tmp_path / SETTING.name / "shrunk" / "test" / f"{cases['test'][0].name}.json").unlink()
    comparison.run()
    assert Shrunk.calls == 6


def test_a_damaged_result_is_named(cases, tmp_path):
    method = Method("shrunk", "shrunk", Shrunk)
    comparison = Comparison([method], [SETTING], cases, tmp_path)
    comparison.run()
    path = tmp_path / SETTING.name / "shrunk" / "test" / f"{cases['test'][0].name}.json"
    path.write_text('{"subject": "1"}')
    with pytest.raises(RunFolderError, match=r"\.json is not a result of a comparison"):
        comparison.run()


def test_methods_with_parameters_have_as_many_trials():
    prior = GaussianPrior(power_law(48, 40, dtype=torch.float32))
    methods = [*classical_methods(), *prior_methods({"gauss": prior})]
    assert {len(method.grid) for method in methods} == {1, TRIALS}
    assert [method.name for method in methods if len(method.grid) == 1] == ["zero_filled"]


def test_a_prior_in_the_splitting(cases, tmp_path):
    """The imaginary part that is tuned is that of the method, not of the prior; the first slice has a curve."""
    prior = GaussianPrior(power_law(48, 40, power=3.0, dtype=torch.float32), imaginary_std=0.7)
    splitting, published = prior_methods({"gauss": prior}, steps=6)
    comparison = Comparison([splitting], [SETTING], cases, tmp_path)
    comparison.run()
    first, second = comparison.finished(SETTING, splitting, "test")
    assert len(first.psnr_of_steps) == 6
    assert first.psnr_of_steps[-1] == pytest.approx(first.measures["psnr"], abs=1e-3)
    assert second.psnr_of_steps == []
    assert prior.imaginary_std == 0.7
    assert splitting.make(**splitting.grid[0]).prior.imaginary_std == 0.005
    made = published.make(sigma=0.04, share=0.25)
    assert (made.sigma, made.step_size) == (0.04, pytest.approx(0.0004))
