"""MONAI's AutoencoderKL as a model of this package."""

import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SliceInferer
from monai.networks.nets import AutoencoderKL

from monai_blurvae.engines import BlurVAETrainer
from monai_blurvae.functional import kl_standard_normal
from monai_blurvae.inferers import prepare_scan
from monai_blurvae.losses import ELBOLoss, WienerLoss
from monai_blurvae.networks import BlurAutoencoderKL
from monai_blurvae.runs import Run
from tests.volumes import EVALUATE, HCP, ROOT, TINY, TRAIN, run

INFERENCE = str(ROOT / "bundles/hcp/inference.json")
SIZES = {
    "channels": (8, 8),
    "attention_levels": (False, False),
    "norm_num_groups": 4,
    "num_res_blocks": 1,
    "latent_channels": 2,
}
SIZES |= {f"with_{part}_nonlocal_attn": False for part in ("encoder", "decoder")}


def make(spatial_dims=2, in_channels=1, **arguments):
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(spatial_dims, in_channels, in_channels, **SIZES)
    size = {"image_size": 16, "in_channels": in_channels, "spatial_dims": spatial_dims, "kernel_size": 5}
    return BlurAutoencoderKL(autoencoder, **size | arguments)


@pytest.mark.parametrize(("spatial_dims", "in_channels"), [(2, 1), (2, 3), (3, 1)])
def test_a_pass_is_that_of_monai(spatial_dims, in_channels):
    network = make(spatial_dims, in_channels)
    x = torch.rand(3, in_channels, *[16] * spatial_dims) * 2 - 1
    output = network.eval()(x)
    torch.testing.assert_close(output.reconstruction, network.autoencoder.reconstruct(x))
    mu, sigma = network.autoencoder.encode(x)
    normal = torch.distributions.Normal(mu, sigma)
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0, 1)).flatten(1).sum(1)
    torch.testing.assert_close(kl_standard_normal(output.mu, output.log_var), kl)
    noise = torch.randn(network.noise_shape(x.shape))
    torch.testing.assert_close(network(x, noise).z, (mu + sigma * noise.view_as(mu)).flatten(1))
    kernels = network.kernel(output.z)
    assert kernels.shape == (3, 1, *[5] * spatial_dims)
    torch.testing.assert_close(kernels.flatten(1).sum(1), torch.ones(3))


def test_the_kernel_follows_a_latent_that_moves():
    """Inside the image; a kernel belongs to the whole image, wherever its content lies."""
    generator = make(image_size=64).kernel_generator
    z = torch.zeros(2, 2, 32, 32)
    z[0, :, 4:9, 6:9] = z[1, :, 20:25, 16:19] = torch.randn(2, 5, 3)
    kernels = generator(z.flatten(1))
    torch.testing.assert_close(kernels[0], kernels[1])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_two_steps_train_a_part_each(spatial_dims):
    network = make(spatial_dims)
    images = torch.rand(2, 1, *[16] * spatial_dims) * 2 - 1
    before = {name: value.clone() for name, value in network.named_parameters()}
    for rate, kernel_rate, moved in ((1e-2, 0.0, "autoencoder."), (0.0, 1e-2, "kernel_generator.")):
        optimizers = (
            torch.optim.SGD(network.vae_parameters(), rate),
            torch.optim.SGD(network.kernel_parameters(), kernel_rate),
        )
        objective = ELBOLoss(WienerLoss(), kernel_size=5, spatial_dims=spatial_dims)
        BlurVAETrainer("cpu", 1, [{"image": images}], network, *optimizers, objective).run()
        changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
        assert changed
        assert all(name.startswith(moved) for name in changed)
        before = {name: value.clone() for name, value in network.named_parameters()}


class LogVar(AutoencoderKL):
    """As many write it, with log σ² in place of σ."""

    def encode(self, x):
        mu, sigma = super().encode(x)
        return mu, 2 * sigma.log()


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match="where the standard deviation σ is expected, as from log σ²"):
        BlurAutoencoderKL(LogVar(2, **SIZES), image_size=16, kernel_size=5)
    with pytest.raises(ValueError, match=r"does not take images of \[2, 16, 16\]; set patch_size"):
        BlurAutoencoderKL(AutoencoderKL(2, **SIZES), image_size=16, in_channels=2, kernel_size=5)
    with pytest.raises(ValueError, match=r"makes images of \[1, 16, 16\] out of \[1, 17, 17\]"):
        make(image_size=17)
    with pytest.raises(ValueError, match="kernel_size 17 is larger than the patch_size"):
        make(kernel_size=17)


def test_the_bundle_trains_evaluates_and_infers(hcp_dir, cache_dir, tmp_path):
    files = [TRAIN, str(ROOT / "configs/architectures/autoencoder_kl.yaml")]
    settings = TINY | {"network_def#autoencoder#channels": [16, 16, 16], "dataset_dir": str(hcp_dir)}
    folder, given = tmp_path / "run", {"run_dir": str(tmp_path / "run"), "cache_dir": cache_dir}
    run("training", files, **settings, **given)
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert weights["autoencoder.encoder.blocks.0.conv.weight"].shape == (16, 1, 3, 3)
    assert "active units" in (folder / "test" / "metrics.md").read_text()
    run("evaluating", EVALUATE, **given)
    assert (folder / "evaluation/0001/metrics.csv").read_text() == (folder / "test/metrics.csv").read_text()
    scan = hcp_dir / "100" / HCP
    run("inference", INFERENCE, **given, input=str(scan), output_dir=str(tmp_path / "maps"))
    (written,) = (tmp_path / "maps").rglob("*_reconstruction.nii.gz")
    network = Run(folder).network()
    assert network.latent_size == Run(folder).latent_size == 3 * 8 * 8
    prepared = prepare_scan(str(scan), Run(folder).preprocessing([]).transforms)
    slices = SliceInferer(spatial_dim=1, roi_size=(32, 32), overlap=0.5, mode="gaussian", cval=-1.0)
    expected = slices(prepared.image.as_tensor()[None], network.reconstruct)[0, 0]
    assert np.allclose(nib.load(written).get_fdata(), prepared.intensities(expected[None])[0], atol=0.05)


def test_the_guide_runs():
    guide = (ROOT / "docs/autoencoder_kl.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    names = {}
    exec(compile(code, "docs/autoencoder_kl.md", "exec"), names)
    assert names["latents"].shape == (2, 3, 16, 16)
