import math

import pytest
import torch

from monai_blurvae.runs import TrainedObjective
from study.paper_measures import NOT_IN_TABLE_6, psnr_from_z, table_6_bound

SIZE = 8


class Toy:
    """Reconstructions are 0.1 · z everywhere; the posterior is N(2, 1e-20), the kernel a point."""

    def __init__(self, log_var=-46.0):
        self.log_var = log_var

    def encode(self, x):
        mu = torch.full((len(x), 1), 2.0)
        return mu, torch.full_like(mu, self.log_var)

    def decode(self, z):
        return (0.1 * z)[:, :, None, None].expand(-1, -1, SIZE, SIZE)

    def kernel(self, z):
        kernel = torch.zeros(len(z), 1, 3, 3)
        kernel[:, :, 1, 1] = 1.0
        return kernel


def trained_with(loss, fixed_kernel=False):
    return TrainedObjective(loss, True, 0.25, "wiener", (), fixed_kernel, has_closed_form=False)


KL = 0.5 * (2.0**2 + math.exp(-46.0) - 1 + 46.0)
SQUARES = SIZE**2 * 0.2**2


def test_the_bound_of_l2_is_half_the_squares_and_the_kl():
    found = table_6_bound(Toy(), torch.zeros(70, 1, SIZE, SIZE), trained_with("L2Loss"))
    assert found.value == pytest.approx(0.5 * SQUARES + KL, rel=1e-5)


def test_the_bound_of_the_wiener_loss_weighs_the_squares_and_adds_the_determinant():
    # A point has F = 1 everywhere: |W| = 1 / (1 + C), and each frequency adds log(1 + ε).
    found = table_6_bound(Toy(), torch.zeros(2, 1, SIZE, SIZE), trained_with("WienerLoss"))
    assert found.value == pytest.approx(0.5 * SQUARES / 1.25**2 + SIZE**2 * math.log(1.5) + KL, rel=1e-5)


@pytest.mark.parametrize("objective", [trained_with("LaplaceLoss"), trained_with("WienerLoss", True)])
def test_what_is_not_in_the_table_has_none(objective):
    assert table_6_bound(Toy(), torch.zeros(2, 1, SIZE, SIZE), objective) == (None, NOT_IN_TABLE_6)


def test_psnr_from_z_has_the_posteriors_noise_in_it():
    images = torch.zeros(500, 1, SIZE, SIZE)
    assert psnr_from_z(Toy(), images).value == pytest.approx(-20 * math.log10(0.2 / 2), rel=1e-4)  # on [0, 1]
    assert psnr_from_z(Toy(log_var=0.0), images).value != pytest.approx(20, abs=0.1)
    assert psnr_from_z(Toy(log_var=0.0), images) == psnr_from_z(Toy(log_var=0.0), images)
