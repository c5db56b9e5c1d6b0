"""Features and LPIPS against torchmetrics and the lpips package with the same weights."""

import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from monai_blurvae.errors import WeightsError
from monai_blurvae.networks.perceptual import (
    LearnedPerceptualDistance,
    PerceptualFeatures,
    convolution_keys,
    default_weights_dir,
    head_keys,
    load_lpips_weights,
    weights_file,
)
from tests.weights import image_pair, oracle, random_weights

NETS = ("alex", "vgg")


def packaged_heads(net):
    torchmetrics = pytest.importorskip("torchmetrics")
    path = Path(torchmetrics.__file__).parent / f"functional/image/lpips_models/{net}.pth"
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", NETS)
def test_features_are_torchmetrics(net, channels, random_weights_dir):
    network = oracle(net, load_lpips_weights(net, random_weights_dir))
    images, _ = image_pair(channels)
    features = PerceptualFeatures(net, random_weights_dir)
    expected = network.net(network.scaling_layer(images.expand(-1, 3, -1, -1)))
    stages = features(images)
    assert tuple(stage.shape[1] for stage in stages) == features.channels
    for ours, theirs in zip(stages, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", NETS)
def test_distance_is_torchmetrics(net, channels, random_weights_dir):
    network = oracle(net, load_lpips_weights(net, random_weights_dir))
    y, x = image_pair(channels)
    distance = LearnedPerceptualDistance(net, random_weights_dir)(y, x)
    assert distance.shape == (2,)
    torch.testing.assert_close(distance, network(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)).flatten())


@pytest.mark.parametrize("net", NETS)
def test_distance_is_the_lpips_packages(net, random_weights_dir):
    lpips = pytest.importorskip("lpips")
    with torch.device("meta"), pytest.warns(UserWarning, match="weights"):
        network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    network.scaling_layer = lpips.ScalingLayer()
    network.load_state_dict(oracle(net, load_lpips_weights(net, random_weights_dir)).state_dict(), False, assign=True)
    y, x = image_pair()
    # Its small number beside the length of the features is another one.
    torch.testing.assert_close(
        LearnedPerceptualDistance(net, random_weights_dir)(y, x), network(y, x).detach().flatten(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("net", NETS)
def test_real_weights(net, lpips_weights):
    weights = load_lpips_weights(net, lpips_weights)
    heads = packaged_heads(net)
    assert sorted(heads) == sorted(head_keys())
    for key, value in heads.items():
        assert torch.equal(weights[key], value)
    y, x = image_pair(size=64)
    torch.testing.assert_close(
        LearnedPerceptualDistance(net, lpips_weights)(y, x), oracle(net, weights)(y, x).flatten()
    )


@pytest.mark.parametrize("net", NETS)
def test_real_features_see_blur_where_the_error_is_the_same(net, lpips_weights):
    """What LPIPS is for: at the same squared error, blur is much further away than a change of level.

    Random features put it hardly further.
    """
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.astronaut()[50:178, 160:288]).permute(2, 0, 1)[None] / 127.5 - 1
    blurred = nn.functional.interpolate(nn.functional.avg_pool2d(image, 8), scale_factor=8, mode="bilinear")
    level = image + (blurred - image).square().mean().sqrt()
    distance = LearnedPerceptualDistance(net, lpips_weights)
    assert distance(blurred, image) > 10 * distance(level, image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", NETS)
def test_zero_and_stationary_at_equal_images(net, channels, random_weights_dir):
    _, x = image_pair(channels)
    y = x.clone().requires_grad_()
    distance = LearnedPerceptualDistance(net, random_weights_dir)(y, x)
    assert torch.equal(distance, torch.zeros(2))
    distance.sum().backward()
    assert torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("net", NETS)
def test_gradient_where_all_features_are_zero(net):
    weights = {key: -value.abs() if "net." in key else value for key, value in random_weights(net).items()}
    x = torch.full((1, 1, 32, 32), 0.9)
    y = torch.full((1, 1, 32, 32), 0.95, requires_grad=True)
    distance = LearnedPerceptualDistance(net, weights=weights)(y, x)
    distance.sum().backward()
    assert distance.item() == 0
    assert torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_is_the_difference_quotient(channels):
    distance = LearnedPerceptualDistance("alex", weights=random_weights("alex")).double()
    y, x = image_pair(channels, size=31, batch=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(distance, (y.requires_grad_(), x.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("net", NETS)
def test_an_image_does_not_see_the_others(net, random_weights_dir):
    y, x = image_pair(batch=3)
    distance = LearnedPerceptualDistance(net, random_weights_dir)
    torch.testing.assert_close(distance(y[1:2], x[1:2]), distance(y, x)[1:2])


def test_nothing_to_train_or_to_save(random_weights_dir):
    distance = LearnedPerceptualDistance("alex", random_weights_dir)
    assert not list(distance.parameters())
    assert not distance.state_dict()
    y, x = image_pair()
    assert torch.equal(distance.train()(y, x), distance.eval()(y, x))


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_image(net, random_weights_dir):
    features = PerceptualFeatures(net, random_weights_dir)
    network = oracle(net, load_lpips_weights(net, random_weights_dir))
    n = features.minimum_size
    assert all(stage.numel() for stage in features(torch.zeros(1, 1, n, n)))
    with pytest.raises(ValueError, match=f"need {n}×{n}"):
        features(torch.zeros(1, 1, n, n - 1))
    with pytest.raises(RuntimeError):  # what the network itself says
        network.net(torch.zeros(1, 3, n, n - 1))


def test_images_of_another_kind(random_weights_dir):
    features = PerceptualFeatures("vgg", random_weights_dir)
    for shape in [(1, 2, 32, 32), (1, 1, 32, 32, 32), (3, 32, 32)]:
        with pytest.raises(ValueError, match="1 or 3"):
            features(torch.zeros(shape))
    with pytest.raises(ValueError, match="target has"):
        LearnedPerceptualDistance("vgg", random_weights_dir)(torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="net must be one of"):
        PerceptualFeatures("squeeze")


def test_where_weights_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("BLURVAE_WEIGHTS_DIR", str(tmp_path))
    assert default_weights_dir() == tmp_path
    assert weights_file("alex") == tmp_path / "lpips_alex.pt"
    assert weights_file("vgg", "/elsewhere") == Path("/elsewhere/lpips_vgg.pt")
    monkeypatch.delenv("BLURVAE_WEIGHTS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_weights_dir() == tmp_path / "monai_blurvae" / "weights"


def test_the_download(monkeypatch, tmp_path):
    """Where there is no file: features of torchvision, heads of torchmetrics."""
    models = pytest.importorskip("torchvision.models")
    network = models.alexnet(weights=None)
    monkeypatch.setattr(models, "alexnet", lambda weights: network if weights == "DEFAULT" else None)
    weights = load_lpips_weights("alex", tmp_path)
    layers = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    for key, layer in zip(convolution_keys("alex"), layers, strict=True):
        assert torch.equal(weights[f"{key}.weight"], layer.weight)
        assert torch.equal(weights[f"{key}.bias"], layer.bias)
    for key, value in packaged_heads("alex").items():
        assert torch.equal(weights[key], value)


def test_no_file_and_no_network(monkeypatch, tmp_path):
    models = pytest.importorskip("torchvision.models")

    def offline(weights):
        raise URLError("no route")

    monkeypatch.setattr(models, "vgg16", offline)
    with pytest.raises(WeightsError, match=r"lpips_vgg.pt does not exist.*no route.*convert_lpips.py --output"):
        load_lpips_weights("vgg", tmp_path)


def test_no_file_and_no_torchvision(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(WeightsError, match=r"lpips_vgg.pt does not exist.*not installed.*monai-blurvae\[perceptual\]"):
        load_lpips_weights("vgg", tmp_path)


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hostile"),)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a file of weights", pickle.dumps({"a": 1}), pickle.dumps(Hostile()), b"PK\x03\x04" + bytes(100)],
    ids=["empty", "text", "pickle", "hostile", "zip"],
)
def test_a_file_that_is_none(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights_file("alex", tmp_path).write_bytes(content)
    with pytest.raises(WeightsError, match=r"lpips_alex.pt (cannot be read|has no tensor)"):
        load_lpips_weights("alex", tmp_path)
    assert not Path("hostile").exists()


def test_a_truncated_file(tmp_path):
    path = weights_file("alex", tmp_path)
    torch.save(random_weights("alex"), path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"lpips_alex\.pt cannot be read"):
        load_lpips_weights("alex", tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("lin3.model.1.weight", None, "no tensor under 'lin3"),
        ("net.slice2.3.weight", torch.zeros(2), r"shape \(2,\) under 'net.slice2.3.weight', where shape \(192, 64, 5"),
        ("net.slice5.10.bias", torch.full((256,), torch.nan), "not finite"),
        ("net.slice5.10.bias", torch.zeros(256, dtype=torch.int64), "not finite"),
    ],
)
def test_tensors_that_cannot_be_used(key, value, match, tmp_path):
    weights = random_weights("alex")
    weights[key] = value
    torch.save(weights, weights_file("alex", tmp_path))
    with pytest.raises(WeightsError, match=match):
        PerceptualFeatures("alex", tmp_path)


def test_a_file_of_something_else(tmp_path):
    torch.save([torch.zeros(3)], weights_file("alex", tmp_path))
    with pytest.raises(WeightsError, match="holds a list"):
        PerceptualFeatures("alex", tmp_path)
