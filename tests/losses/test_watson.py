"""Watson's model against NumPy and SciPy, block by block."""

import numpy as np
import pytest
import scipy.fft
import torch

from monai_blurvae.errors import WeightsError
from monai_blurvae.losses.watson import (
    WATSON_SENSITIVITY,
    WatsonLoss,
    block_dct,
    load_watson_weights,
    watson_parameters,
)

TABLE = np.array(WATSON_SENSITIVITY)


def data(channels=1, batch=2, size=(16, 24), seed=0):
    """Reconstructions and images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x + 0.1 * noise, x


def blocks_of(image):
    return [image[i : i + 8, j : j + 8] for i in range(0, image.shape[0], 8) for j in range(0, image.shape[1], 8)]


def block_dcts(image):
    return np.stack([scipy.fft.dctn(block, norm="ortho") for block in blocks_of(image)])


def reference(reconstruction, image, table=TABLE, alpha=0.649, w=0.7, p=4.0, floor=0.05):
    """The formulas of the docstring for one channel, intensities as they are."""
    c_hat, c = block_dcts(reconstruction), block_dcts(image)
    mean = np.mean([block[0, 0] for block in c])
    total = 0.0
    for block, block_hat in zip(c, c_hat, strict=True):
        luminance = table * max(block[0, 0] / mean, floor) ** alpha
        contrast = np.abs(block) ** w * luminance ** (1 - w)
        top = np.maximum(luminance, contrast)
        a, b = np.exp(luminance - top), np.exp(contrast - top)
        s = (a * luminance + b * contrast) / (a + b)
        total += np.sum(np.abs((block_hat - block) / s) ** p)
    return total ** (1 / p)


def intensities(image, white=255):
    return (image.numpy() + 1) / 2 * white


def ycbcr(rgb, white=255):
    """ITU-R BT.601 from its definition: Kr = 0.299, Kb = 0.114."""
    r, g, b = rgb
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, (b - y) / (2 * (1 - 0.114)) + white / 2, (r - y) / (2 * (1 - 0.299)) + white / 2])


def test_the_table_is_symmetric_and_rises_from_its_minimum():
    assert np.array_equal(TABLE, TABLE.T)
    assert TABLE.min() == TABLE[0, 1]
    assert (np.diff(TABLE[1:, 1:], axis=1)[:, 2:] > 0).all()


@pytest.mark.parametrize("size", [(16, 24), (8, 8), (13, 18)])
def test_block_dct_is_scipys(size):
    _, x = data(channels=3, size=size)
    padding = ((0, -size[0] % 8), (0, -size[1] % 8))
    for image, coefficients in zip(x.flatten(0, 1), block_dct(x).flatten(0, 1), strict=True):
        expected = block_dcts(np.pad(image.numpy(), padding, mode="edge"))
        np.testing.assert_allclose(coefficients.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("p", [0.965, 2.0, 4.0])
def test_without_masking_it_is_a_weighted_norm_of_the_dct(p):
    y, x = data()
    term = WatsonLoss(alpha=0, w=0, p=p, reduction="none")
    expected = [np.sum(np.abs(block_dcts(intensities(error - 1)) / TABLE) ** p) ** (1 / p) for error in (y - x)[:, 0]]
    np.testing.assert_allclose(term(y, x).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"alpha": 0.3, "w": 0.2, "p": 2.5}, {"w": 1.0}, {"alpha": 0.0}])
def test_it_is_the_formula(arguments):
    y, x = data()
    expected = [reference(intensities(a[0]), intensities(b[0]), **arguments) for a, b in zip(y, x, strict=True)]
    np.testing.assert_allclose(WatsonLoss(**arguments, reduction="none")(y, x).numpy(), expected, rtol=1e-6)


def test_colour_is_the_mean_of_luma_and_chroma():
    y, x = data(channels=3)
    expected = [
        np.mean([reference(a, b) for a, b in zip(ycbcr(intensities(y_n)), ycbcr(intensities(x_n)), strict=True)])
        for y_n, x_n in zip(y, x, strict=True)
    ]
    # JPEG's matrix is rounded to six digits.
    np.testing.assert_allclose(WatsonLoss(reduction="none")(y, x).numpy(), expected, rtol=1e-4)


def test_a_grey_error_is_seen_in_the_luma_alone():
    y, x = data()
    grey = WatsonLoss(reduction="none")(y, x)
    colour = WatsonLoss(reduction="none")(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(colour, grey / 3, rtol=1e-4, atol=0)


def test_it_is_a_norm_of_the_error():
    y, x = data()
    term = WatsonLoss(reduction="none")
    torch.testing.assert_close(term(x + 3 * (y - x), x), 3 * term(y, x), rtol=1e-6, atol=0)
    torch.testing.assert_close(term(2 * x - y, x), term(y, x), rtol=1e-6, atol=0)


def test_it_is_not_symmetric():
    y, x = data()
    assert not torch.allclose(WatsonLoss()(y, x), WatsonLoss()(x, y), rtol=1e-3)


def test_the_background_hides_an_error():
    """The same error is less visible on a bright block and on a textured one."""
    x = torch.full((1, 1, 8, 16), -0.5, dtype=torch.float64)
    x[..., 8:] = 0.5
    error = torch.zeros_like(x)
    error[..., 3, 3] = 0.1
    term = WatsonLoss()
    assert term(x + error.roll(8, -1), x) < term(x + error, x)
    texture = x + 0.3 * (-1.0) ** torch.arange(16)
    assert term(texture + error, texture) < term(x + error, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_and_stationary_at_equal_images(channels):
    _, x = data(channels)
    y = x.clone().requires_grad_()
    value = WatsonLoss(reduction="none")(y, x)
    assert torch.equal(value, torch.zeros_like(value))
    value.sum().backward()
    assert torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("level", [-1.0, -0.9, 1.0])
def test_black_and_empty_images(level):
    """Blocks without any light, as around a brain, have a finite threshold."""
    x = torch.full((1, 1, 16, 16), -1.0)
    x[..., :8, :8] = level
    y = (x + 0.1).requires_grad_()
    value = WatsonLoss()(y, x)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(y.grad).all()
    assert value > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients(channels):
    y, x = data(channels, size=(8, 11), batch=1)
    assert torch.autograd.gradcheck(WatsonLoss(), (y.requires_grad_(), x.requires_grad_()))


def test_reductions_and_independence_of_the_batch():
    y, x = data(batch=4)
    x[0] += 0.1
    each = WatsonLoss(reduction="none")(y, x)
    assert each.shape == (4,)
    torch.testing.assert_close(WatsonLoss()(y, x), each.mean())
    torch.testing.assert_close(WatsonLoss(reduction="none")(y[1:2], x[1:2]), each[1:2])


def test_half_precision_reconstructions():
    y, x = data()
    assert WatsonLoss()(y.bfloat16(), x.bfloat16()).dtype == torch.float32


def test_nothing_to_train_or_to_save():
    assert not list(WatsonLoss().parameters())
    assert not WatsonLoss().state_dict()


def test_random_shift_moves_the_grid_in_training_only():
    y, x = data(size=(16, 16))
    term = WatsonLoss(random_shift=True, reduction="none")
    padded = [np.pad(intensities(image[:, 0]), ((0, 0), (4, 4), (4, 4)), mode="edge") for image in (y, x)]
    possible = [
        [reference(*(images[n, top : top + 16, left : left + 16] for images in padded)) for n in range(2)]
        for top in range(8)
        for left in range(8)
    ]
    torch.manual_seed(0)
    values = [term(y, x).numpy() for _ in range(20)]
    torch.manual_seed(0)
    assert np.array_equal(term(y, x).numpy(), values[0])
    found = {min(range(64), key=lambda i: np.abs(possible[i] - value).sum()) for value in values}
    for value in values:
        assert min(np.abs(np.array(shift) - value).max() for shift in possible) < 1e-5
    assert len(found) > 5
    assert torch.equal(term.eval()(y, x), WatsonLoss(reduction="none")(y, x))


def learned(seed=0):
    """One channel's parameters as a weights file holds them, for intensities in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "t_tild": torch.randn(8, 8, generator=generator) - 1,
        "alpha": torch.rand((), generator=generator),
        "w_tild": torch.randn((), generator=generator),
        "beta": 2 + torch.rand((), generator=generator),
    }


def learned_reference(y, x, values):
    return reference(
        y,
        x,
        np.exp(values["t_tild"].double().numpy()),
        values["alpha"].item(),
        1 / (1 + np.exp(-values["w_tild"].item())),
        values["beta"].item(),
    )


def test_learned_weights_for_grey(tmp_path):
    values = learned()
    torch.save({**values, "blocksize": torch.tensor(8), "dct.weight": torch.zeros(3)}, tmp_path / "w.pt")
    y, x = data()
    expected = [
        learned_reference(intensities(a[0], 1), intensities(b[0], 1), values) for a, b in zip(y, x, strict=True)
    ]
    term = WatsonLoss(tmp_path / "w.pt", reduction="none")
    np.testing.assert_allclose(term(y, x).numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"3 channels.*holds weights for 1"):
        term(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1))


def colour_weights():
    content = {"w_tild": torch.tensor([1.0, -0.5, 0.3]), "to_YCbCr.bias": torch.zeros(3)}
    for seed, prefix in enumerate(("ly.", "lcb.", "lcr.")):
        content.update({f"{prefix}{key}": value for key, value in learned(seed).items()})
        content[f"{prefix}blocksize"] = torch.tensor(8)
    return content


def test_learned_weights_for_colour(tmp_path):
    torch.save(colour_weights(), tmp_path / "w.pt")
    y, x = data(channels=3)
    share = np.exp([1.0, -0.5, 0.3]) / np.exp([1.0, -0.5, 0.3]).sum()
    expected = []
    for y_n, x_n in zip(y, x, strict=True):
        channels = zip(ycbcr(intensities(y_n, 1), 1), ycbcr(intensities(x_n, 1), 1), strict=True)
        expected.append(share @ [learned_reference(a, b, learned(seed)) for seed, (a, b) in enumerate(channels)])
    term = WatsonLoss(tmp_path / "w.pt", reduction="none")
    np.testing.assert_allclose(term(y, x).numpy(), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"1 channels.*holds weights for 3"):
        term(y[:, :1], x[:, :1])


def test_watsons_own_numbers_as_a_file(tmp_path):
    content = {
        "t_tild": torch.tensor(WATSON_SENSITIVITY).log(),
        "alpha": torch.tensor(0.649),
        "w_tild": torch.logit(torch.tensor(0.7)),
        "beta": torch.tensor([4.0]),
    }
    torch.save(content, tmp_path / "w.pt")
    for ours, theirs in zip(load_watson_weights(tmp_path / "w.pt"), watson_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    y, x = data()
    torch.testing.assert_close(WatsonLoss(tmp_path / "w.pt", intensity_max=255)(y, x), WatsonLoss()(y, x))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"t_tild": None}, "no tensor under 't_tild'"),
        ({"t_tild": torch.zeros(4, 4)}, r"shape \(4, 4\) under 't_tild'"),
        ({"beta": torch.tensor(float("nan"))}, "under 'beta', where finite"),
        ({"beta": torch.tensor(0.0)}, "must be positive"),
        ({"gamma": torch.tensor(0.5)}, "unknown key 'gamma'"),
    ],
)
def test_weights_that_cannot_be_used(change, match, tmp_path):
    torch.save({**learned(), **change}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=match):
        WatsonLoss(tmp_path / "w.pt")


def test_the_exponent_of_the_published_grey_weights_is_below_one(tmp_path):
    torch.save({**learned(), "beta": torch.tensor(0.965)}, tmp_path / "w.pt")
    term = WatsonLoss(tmp_path / "w.pt")
    y, x = data()
    y[..., :8, :8] = x[..., :8, :8]  # the derivative of |e|^p by an error of zero is infinite
    y.requires_grad_()
    term(y, x).backward()
    assert term.exponents == pytest.approx([0.965])
    assert bool(y.grad.isfinite().all())


def test_a_colour_file_without_its_channel_weights(tmp_path):
    content = colour_weights()
    del content["w_tild"]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no tensor under 'w_tild'"):
        WatsonLoss(tmp_path / "w.pt")


def test_files_that_are_none(tmp_path):
    with pytest.raises(WeightsError, match=r"missing\.pt cannot be read"):
        WatsonLoss(tmp_path / "missing.pt")
    (tmp_path / "w.pt").write_text("no weights")
    with pytest.raises(WeightsError, match=r"w\.pt cannot be read"):
        WatsonLoss(tmp_path / "w.pt")
    torch.save([1], tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        WatsonLoss(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"w": 1.5}, "w must lie"),
        ({"p": 0.0}, "p must be positive"),
        ({"p": float("nan")}, "p must be positive"),
        ({"intensity_max": 0}, "intensity_max must be positive"),
        ({"luminance_floor": 0}, "luminance_floor must be positive"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        WatsonLoss(**arguments)


def test_bad_images():
    with pytest.raises(ValueError, match="1 or 3"):
        WatsonLoss()(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_parameters_follow_the_images_to_their_device(channels):
    images = torch.zeros(1, channels, 16, 16, device="meta")
    assert WatsonLoss()(images, images).device.type == "meta"
