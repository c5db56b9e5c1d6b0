import io
import math
import re

import pytest
import torch
from torch import nn

from monai_blurvae.metrics.likelihood import KernelLikelihood, SpectrumLikelihood, VarianceLikelihood
from monai_blurvae.networks import BlurVAE, BlurVAEReconstructor, KernelGenerator, architecture_of
from monai_blurvae.networks.blurvae import ARCHITECTURES

SMALL = {"channels": (4, 6, 8, 10), "latent_size": 5, "kernel_hidden_size": 7}
CASES = [
    {"image_size": 64, **SMALL},
    {"image_size": 256, **SMALL, "channels": (2, 3, 4, 4, 4, 4), "kernel_size": 41},
    {"image_size": 64, **SMALL, "architecture": "upsample", "channels": (4, 4, 4, 4, 4)},
    {"image_size": 48, **SMALL, "in_channels": 3},
    {"image_size": 32, **SMALL, "architecture": "transposed_linear"},
    {"image_size": 32, **SMALL, "in_channels": 3, "architecture": "upsample"},
    {"image_size": 16, **SMALL, "spatial_dims": 3, "channels": (4, 6), "kernel_size": 5},
    {"image_size": 16, **SMALL, "spatial_dims": 3, "channels": (4, 6), "kernel_size": 5, "architecture": "upsample"},
]


def batch(arguments, n=2):
    size = [arguments["image_size"]] * arguments.get("spatial_dims", 2)
    return torch.rand(n, arguments.get("in_channels", 1), *size) * 2 - 1


@pytest.mark.parametrize("arguments", CASES)
def test_shapes_and_ranges(arguments):
    network = BlurVAE(**arguments)
    x = batch(arguments)
    output = network(x)
    assert output.reconstruction.shape == x.shape
    assert output.reconstruction.abs().max() <= 1
    assert output.mu.shape == output.log_var.shape == output.z.shape == (2, 5)
    kernel = network.kernel(output.z)
    k = arguments.get("kernel_size", 11)
    assert kernel.shape == (2, 1, *[k] * arguments.get("spatial_dims", 2))
    torch.testing.assert_close(kernel.flatten(1).sum(1), torch.ones(2))
    assert kernel.min() >= 0


@pytest.mark.parametrize("arguments", CASES)
def test_the_weights_tell_the_architecture(arguments):
    found = architecture_of(BlurVAE(**arguments).state_dict())
    defaults = {"spatial_dims": 2, "in_channels": 1, "kernel_size": 11, "architecture": "transposed"}
    for name, value in (defaults | arguments).items():
        if name != "kernel_hidden_size":
            assert getattr(found, name) == value
    assert architecture_of({"weight": torch.zeros(1)}) is None


def test_the_papers_networks_have_the_papers_layers():
    main = BlurVAE()
    assert [tuple(block.conv.weight.shape) for block in main.encoder.blocks] == [
        (64, 1, 3, 3),
        (128, 64, 3, 3),
        (256, 128, 3, 3),
        (512, 256, 3, 3),
    ]
    # transposed convolutions hold (in, out, 4, 4)
    assert [block.conv.weight.shape[1] for block in main.decoder.blocks] == [512, 256, 128, 64]
    assert [layer.weight.shape for layer in main.kernel_generator.layers[::2]] == [(1000, 256), (121, 1000)]
    second = BlurVAE(channels=(32, 64, 128, 256, 512), architecture="upsample")
    assert [block[1].conv.weight.shape[0] for block in second.decoder.blocks] == [512, 256, 128, 64, 32]


def test_linear_layers_start_as_he_et_al_have_it():
    network = BlurVAE(channels=(8, 16, 32, 64))
    layers = [m for part in (network.encoder, network.decoder) for m in part.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 4
    for layer in layers:
        # a LeakyReLU of slope a keeps (1 + a²) / 2 of the power
        expected = math.sqrt(2 / (1 + 0.2**2) / layer.in_features)
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not layer.bias.any()


def test_the_two_groups_of_parameters_are_disjoint_and_complete():
    network = BlurVAE(**SMALL)
    vae, kernel = ({id(p) for p in group} for group in (network.vae_parameters(), network.kernel_parameters()))
    assert not vae & kernel
    assert vae | kernel == {id(p) for p in network.parameters()}


def test_noise_training_and_evaluation():
    network = BlurVAE(**SMALL).eval()
    x = torch.rand(2, 1, 64, 64)
    output = network(x)
    assert torch.equal(output.z, output.mu)
    noise = torch.randn(2, 5)
    noisy = network(x, noise)
    torch.testing.assert_close(noisy.z, noisy.mu + (0.5 * noisy.log_var).exp() * noise)
    network.train()
    assert not torch.equal(network(x).z, network(x).z)


def test_log_var_is_clamped():
    network = BlurVAE(**SMALL)
    with torch.no_grad():
        network.encoder.posterior.bias.fill_(1e3)
    assert network(torch.rand(2, 1, 64, 64)).log_var.max() == 10


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_repeat_with_their_generator(channels):
    network = BlurVAE(**SMALL, in_channels=channels).eval()
    a, b = (network.sample(3, torch.Generator().manual_seed(1)) for _ in range(2))
    assert a.shape == (3, channels, 64, 64)
    assert torch.equal(a, b)
    assert not torch.equal(a, network.sample(3, torch.Generator().manual_seed(2)))


DENSITIES = {
    "variance": lambda network: VarianceLikelihood(0.25),
    "kernel": lambda network: KernelLikelihood(network, 0.25),
    "spectrum": lambda network: SpectrumLikelihood(torch.full((1, 1, 16, 9), 0.25)),
}


@pytest.mark.parametrize("kind", DENSITIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_drawn_around_the_same_means(channels, kind):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": (4, 8), "kernel_size": 5, "latent_size": 5}
    network = BlurVAE(in_channels=channels, **sizes).eval()
    likelihood = DENSITIES[kind](network)
    x = torch.rand(3, channels, 16, 16) * 2 - 1
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    for draw, of in [(lambda g, p: network.sample(3, g, p), z), (lambda g, p: network.reconstruct(x, g, p), None)]:
        mean, first, again = (draw(torch.Generator().manual_seed(1), p) for p in (None, likelihood, likelihood))
        of = network.encode(x)[0] if of is None else of
        torch.testing.assert_close(mean, network.decode(of))
        assert torch.equal(first, again)
        # the drawn x has the log-density of its distance from that mean: half a χ² with D degrees of freedom
        dimensions = mean[0].numel()
        square = -2 * (likelihood.log_prob((first - mean).double(), of) - likelihood.log_prob(0 * mean.double(), of))
        assert ((square - dimensions).abs() < 5 * (2 * dimensions) ** 0.5).all()
        assert not first.requires_grad


def test_a_reconstruction_is_that_of_the_evaluation():
    network, x = BlurVAE(**SMALL).eval(), torch.rand(2, 1, 64, 64)
    assert torch.equal(network.reconstruct(x), network(x).reconstruction)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructor_takes_the_weights_and_survives_torchscript(channels, architecture):
    arguments = SMALL | {"in_channels": channels, "architecture": architecture}
    network = BlurVAE(**arguments).train()
    x = torch.rand(4, channels, 64, 64) * 2 - 1
    network(x)
    network.eval()
    reconstructor = BlurVAEReconstructor(**arguments)
    reconstructor.load_state_dict(network.state_dict())
    reconstructor.eval()
    expected = network(x)
    torch.testing.assert_close(reconstructor(x), expected.reconstruction, rtol=0, atol=0)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(reconstructor), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    torch.testing.assert_close(scripted(x), expected.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(scripted.encode(x)[0], expected.mu, rtol=0, atol=1e-5)
    torch.testing.assert_close(scripted.decode(expected.mu), expected.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(scripted.kernel(expected.mu), network.kernel(expected.mu), rtol=0, atol=1e-5)
    assert torch.equal(scripted(x), scripted(x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructor_survives_torch_export(channels, architecture):
    arguments = SMALL | {"in_channels": channels, "architecture": architecture}
    reconstructor = BlurVAEReconstructor(**arguments).eval()
    x = torch.rand(4, channels, 64, 64) * 2 - 1
    batch_size = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(reconstructor, (x,), dynamic_shapes=({0: batch_size},))
    for n in (4, 3):
        torch.testing.assert_close(program.module()(x[:n]), reconstructor(x[:n]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", CASES)
def test_activations_are_channels_last_and_weights_contiguous(arguments):
    network = BlurVAE(**arguments)
    layouts = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            # by the strides: a tensor of one channel counts as contiguous in both layouts
            module.register_forward_pre_hook(lambda _, x: layouts.append(x[0].stride(1) == 1))
    network(batch(arguments))[0].sum().backward()
    count = 2 * len(arguments["channels"]) + 1 if arguments.get("spatial_dims", 2) == 2 else 0
    assert layouts == [True] * count
    assert all(value.is_contiguous() for value in network.state_dict().values())


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_in_channels_last_give_the_same_bits(channels):
    network, other = (BlurVAE(**SMALL, in_channels=channels) for _ in range(2))
    other.load_state_dict(network.state_dict())
    other.to(memory_format=torch.channels_last)
    x, noise = torch.rand(4, channels, 64, 64) * 2 - 1, torch.randn(4, 5)
    for a in (network, other):
        a(x, noise).reconstruction.square().sum().backward()
    assert torch.equal(network(x, noise).reconstruction, other(x, noise).reconstruction)
    for a, b in zip(network.vae_parameters(), other.vae_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_checkpoint_of_another_architecture_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"latent_size is 6 there and 5 here; set latent_size to the checkpoint's"):
        BlurVAE(**SMALL).load_state_dict(BlurVAE(**SMALL | {"latent_size": 6}).state_dict())
    with pytest.raises(ValueError, match=r"channels is \[4, 6, 8, 12\] there"):
        BlurVAE(**SMALL).load_state_dict(BlurVAE(**SMALL | {"channels": (4, 6, 8, 12)}).state_dict())


@pytest.mark.parametrize("network", [BlurVAE, BlurVAEReconstructor])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("there", "here"), [(3, 1), (1, 3)])
def test_a_checkpoint_of_another_number_of_channels_is_refused_in_one_sentence(network, architecture, there, here):
    arguments = SMALL | {"architecture": architecture}
    weights = BlurVAE(**arguments, in_channels=there).state_dict()
    message = (
        f"the checkpoint is of another architecture: in_channels is {there} there and {here} here; set in_channels"
    )
    with pytest.raises(ValueError, match=f"^{message} to the checkpoint's.$"):
        network(**arguments, in_channels=here).load_state_dict(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 40}, "multiple of 16"),
        ({"image_size": 8}, "multiple of 16"),
        ({"kernel_size": 10}, "odd"),
        ({"kernel_size": 65}, "larger than the patch_size"),
        ({"architecture": "resnet"}, "architecture must be one of"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"channels": ()}, "channels"),
        ({"latent_size": 0}, "latent_size"),
        ({"kernel_normalization": "relu"}, "normalization"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurVAE(**SMALL | arguments)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 64, 64), (1, 64, 64)])
def test_an_image_of_another_size_or_number_of_channels_is_refused(shape):
    message = re.escape(f"the network takes images of shape (B, [1, 64, 64]), but got {list(shape)}")
    with pytest.raises(ValueError, match=message):
        BlurVAE(**SMALL)(torch.zeros(shape))


def test_free_kernels_may_be_negative():
    torch.manual_seed(0)
    assert KernelGenerator(4, 5, normalization="none")(torch.randn(8, 4)).min() < 0


@pytest.mark.parametrize("channels", [1, 3])
def test_both_steps_reach_every_parameter(channels):
    network = BlurVAE(**SMALL, in_channels=channels)
    output = network(torch.rand(4, channels, 64, 64))
    (output.reconstruction.sum() + output.log_var.sum() + network.kernel(output.z).square().sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("kernel_size", "spatial_dims"), [(11, 2), (5, 3)])
def test_kernels_start_near_a_gaussian(kernel_size, spatial_dims):
    torch.manual_seed(0)
    with torch.no_grad():
        kernel = KernelGenerator(4, kernel_size, spatial_dims=spatial_dims)(torch.randn(64, 4)).mean((0, 1))
    axis = torch.arange(kernel_size) - kernel_size // 2
    one = torch.exp(-0.5 * (axis / (kernel_size / 6)) ** 2)
    expected = torch.ones(())
    for _ in range(spatial_dims):
        expected = expected[..., None] * (one / one.sum())
    assert (kernel - expected).norm() < 0.2 * expected.norm()
