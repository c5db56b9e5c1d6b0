import pytest
import torch
from monai.handlers import IgniteMetricHandler

from monai_blurvae.metrics.lpips import LPIPSMetric, lpips_distance
from monai_blurvae.networks.perceptual import load_lpips_weights
from tests.weights import image_pair, oracle


def unit_pair(channels=1, batch=2):
    return [(image + 1) / 2 for image in image_pair(channels, batch=batch)]


@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_torchmetrics_with_normalize(net, channels, random_weights_dir):
    y, x = unit_pair(channels)
    network = oracle(net, load_lpips_weights(net, random_weights_dir))
    expected = network(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1), normalize=True).flatten()
    torch.testing.assert_close(lpips_distance(y, x, net, random_weights_dir), expected)


def test_the_real_network(lpips_weights):
    y, x = unit_pair()
    network = oracle("alex", load_lpips_weights("alex", lpips_weights))
    expected = network(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1), normalize=True).flatten()
    torch.testing.assert_close(lpips_distance(y, x, weights_dir=lpips_weights), expected)


def test_the_metric_is_the_mean_over_all_images(random_weights_dir):
    y, x = unit_pair(batch=3)
    metric = LPIPSMetric(weights_dir=random_weights_dir)
    handler = IgniteMetricHandler(metric_fn=metric, save_details=False)
    handler.update((y[:1].requires_grad_(), x[:1]))
    handler.update((y[1:], x[1:]))
    expected = lpips_distance(y, x, weights_dir=random_weights_dir).mean().item()
    assert handler.compute() == pytest.approx(expected, rel=1e-5)
    assert not metric.get_buffer().requires_grad


def test_equal_images(random_weights_dir):
    _, x = unit_pair()
    assert torch.equal(lpips_distance(x, x, weights_dir=random_weights_dir), torch.zeros(2))


def test_bad_images(random_weights_dir):
    with pytest.raises(ValueError, match="31×31"):
        lpips_distance(torch.zeros(1, 1, 30, 64), torch.zeros(1, 1, 30, 64), weights_dir=random_weights_dir)
