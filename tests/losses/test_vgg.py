import pytest
import torch

from monai_blurvae.losses.pixelwise import VGGFeatureLoss
from monai_blurvae.networks.perceptual import load_lpips_weights
from tests.weights import image_pair, oracle


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_lpips_times_the_pixels(channels, random_weights_dir):
    y, x = image_pair(channels, size=24)
    network = oracle("vgg", load_lpips_weights("vgg", random_weights_dir))
    expected = 24 * 27 * network(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)).flatten()
    torch.testing.assert_close(VGGFeatureLoss(random_weights_dir, reduction="none")(y, x), expected)


def test_the_real_network(lpips_weights):
    y, x = image_pair(1, size=64)
    network = oracle("vgg", load_lpips_weights("vgg", lpips_weights))
    expected = 64 * 67 * network(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)).mean()
    torch.testing.assert_close(VGGFeatureLoss(lpips_weights)(y, x), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_gradient_and_no_neighbours(channels, random_weights_dir):
    term = VGGFeatureLoss(random_weights_dir, reduction="none")
    y, x = image_pair(channels, size=16, batch=3)
    assert torch.equal(term(x, x), torch.zeros(3))
    torch.testing.assert_close(term(y[1:2], x[1:2]), term(y, x)[1:2])
    double = VGGFeatureLoss(random_weights_dir, reduction="none").double()
    y, x = image_pair(channels, size=16, batch=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(double, (y.requires_grad_(), x), fast_mode=True)


def test_nothing_to_train_or_to_save(random_weights_dir):
    term = VGGFeatureLoss(random_weights_dir)
    assert not list(term.parameters())
    assert not term.state_dict()


def test_half_precision_reconstructions(random_weights_dir):
    y, x = image_pair(1, size=16)
    assert VGGFeatureLoss(random_weights_dir)(y.bfloat16(), x.bfloat16()).dtype == torch.float32


def test_bad_images(random_weights_dir):
    with pytest.raises(ValueError, match="too small"):
        VGGFeatureLoss(random_weights_dir)(torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 12, 12))
    with pytest.raises(ValueError, match="1 or 3"):
        VGGFeatureLoss(random_weights_dir)(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16))


def test_the_features_follow_the_images_to_their_device(random_weights_dir):
    images = torch.zeros(1, 1, 16, 16, device="meta")
    assert VGGFeatureLoss(random_weights_dir)(images, images).device.type == "meta"
