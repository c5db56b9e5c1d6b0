"""Random weights of the perceptual networks, and torchmetrics' LPIPS as the oracle that loads the same tensors."""

import torch

from monai_blurvae.networks.perceptual import PERCEPTUAL_NETS, weight_shapes, weights_file


def random_weights(net, seed=0):
    """Weights that keep the variance of the features from layer to layer; heads are positive as LPIPS's are."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in weight_shapes(net).items():
        value = torch.randn(shape, generator=generator)
        if key.startswith("lin"):
            weights[key] = value.abs()
        elif len(shape) == 4:
            weights[key] = value * (2 / value[0].numel()) ** 0.5
        else:
            weights[key] = 0.1 * value
    return weights


def save_random_weights(folder):
    for net in PERCEPTUAL_NETS:
        torch.save(random_weights(net), weights_file(net, folder))
    return folder


def oracle(net, weights):
    """torchmetrics' LPIPS with these weights."""
    from torchmetrics.functional.image.lpips import _LPIPS, ScalingLayer

    with torch.device("meta"):  # no numbers are drawn for the classifier of 120 million weights that VGG16 comes with
        network = _LPIPS(pretrained=False, net=net, pnet_rand=True)
    network.scaling_layer = ScalingLayer()
    # torchmetrics lists its heads a second time.
    again = {f"lins.{key[3]}.model.1.weight": value for key, value in weights.items() if key.startswith("lin")}
    network.load_state_dict({**weights, **again}, assign=True)
    return network.requires_grad_(False)


def image_pair(channels=3, size=40, batch=2, seed=0, dtype=torch.float32):
    """Images in [-1, 1] and noisy ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, channels, size, size + 3, generator=generator, dtype=dtype) * 2 - 1
    noise = torch.randn(x.shape, generator=generator, dtype=dtype)
    return (x + 0.3 * noise).clamp(-1, 1), x
