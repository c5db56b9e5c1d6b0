import pytest

from monai_blurvae.metrics.measures import LIKELIHOOD, MEASURES, PER_IMAGE, Description, keys


def test_each_measure_has_its_own_key_and_name():
    assert len({description.name for description in MEASURES.values()}) == len(MEASURES)
    assert all(key == description.key for key, description in MEASURES.items())
    assert set(PER_IMAGE) | set(keys(LIKELIHOOD)) <= MEASURES.keys()


def test_labels_have_units_and_directions():
    assert [MEASURES[key].label for key in ("psnr", "ssim", "kernel_width")] == [
        "PSNR (dB)",
        "SSIM",
        "kernel width (pixels)",
    ]
    assert [MEASURES[key].direction for key in ("psnr", "lpips", "kl")] == ["higher", "lower", None]


@pytest.mark.parametrize(
    ("digits", "options", "value", "std", "text"),
    [
        (2, {}, 20.129, None, "20.13"),
        (2, {}, -0.5, 0.25, "−0.50 ± 0.25"),
        (1, {}, 3.0, float("nan"), "3.0"),
        (1, {"signed": True}, 1.0, 0.5, "+1.0 ± 0.5"),
        (1, {"signed": True}, -1.0, None, "−1.0"),
        (2, {"significant": True}, 0.01234, 0.001234, "0.012 ± 0.001"),
        (2, {"significant": True}, -0.000567, 0.0000567, "−0.00057 ± 0.00006"),
        (2, {"significant": True}, 1.25, 0.125, "1.2 ± 0.1"),
        (2, {"significant": True}, 250.0, 25.0, "250 ± 25"),
        (2, {"significant": True}, 0.0, 0.0, "0.00 ± 0.00"),
    ],
)
def test_values_have_the_digits_of_their_measure(digits, options, value, std, text):
    assert Description("d", "D", "", digits, 0, "", **options).text(value, std) == text
