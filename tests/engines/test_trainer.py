import logging
from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch.utils._python_dispatch import TorchDispatchMode

from monai_blurvae.engines import BlurVAEEvaluator, BlurVAEEvents, BlurVAEKeys, BlurVAETrainer
from monai_blurvae.errors import DataError, NonFiniteLossError
from monai_blurvae.handlers import EpochProgressHandler
from monai_blurvae.losses import (
    Adversary,
    ELBOLoss,
    L2Loss,
    PatchELBO,
    RobustLoss,
    SigmaVAELoss,
    SpectralGaussianLoss,
    SpectrumLoss,
    WienerLoss,
)
from monai_blurvae.networks import BlurVAE, PatchVAE

logging.getLogger("ignite").setLevel(logging.CRITICAL)


def batches(n=3, channels=1):
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.rand(6, channels, 16, 16, generator=generator) * 2 - 1, "source": [f"{i}.nii.gz"] * 6}
        for i in range(n)
    ]


def make_trainer(objective, data=None, epochs=1, device="cpu", channels=1, fused=False, **arguments):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": (4, 8), "latent_size": 3, "kernel_size": 5, "kernel_hidden_size": 9}
    network = BlurVAE(in_channels=channels, **sizes)
    return BlurVAETrainer(
        device=device,
        max_epochs=epochs,
        train_data_loader=batches() if data is None else data,
        network=network,
        optimizer=torch.optim.Adam([*network.vae_parameters(), *objective.parameters()], 1e-3, fused=fused),
        kernel_optimizer=torch.optim.Adam(network.kernel_parameters(), 1e-3, fused=fused),
        loss_function=objective,
        **arguments,
    )


def snapshot(parameters):
    return [p.detach().clone() for p in parameters]


def same(before, parameters):
    return all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "objective",
    [
        ELBOLoss(WienerLoss()),
        ELBOLoss(WienerLoss(detach_weight=False), "exact"),
        ELBOLoss(WienerLoss(detach_weight=False), "epsilon"),
    ],
)
def test_each_step_changes_its_own_parameters_only(objective, channels):
    trainer = make_trainer(objective, batches(1, channels), channels=channels)
    network, seen = trainer.network, []
    kept = {}

    @trainer.on(BlurVAEEvents.KERNEL_STEP_STARTED)
    @trainer.on(BlurVAEEvents.VAE_STEP_STARTED)
    def remember():
        kept["vae"] = snapshot(network.vae_parameters())
        kept["kernel"] = snapshot(network.kernel_parameters())

    @trainer.on(BlurVAEEvents.KERNEL_STEP_COMPLETED)
    def after_kernel():
        seen.append("kernel")
        assert same(kept["vae"], network.vae_parameters())
        assert not same(kept["kernel"], network.kernel_parameters())

    @trainer.on(BlurVAEEvents.VAE_STEP_COMPLETED)
    def after_vae():
        seen.append("vae")
        assert same(kept["kernel"], network.kernel_parameters())
        assert not same(kept["vae"], network.vae_parameters())

    trainer.run()
    assert seen == ["kernel", "vae"]


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda w: w, SigmaVAELoss, lambda w: SpectralGaussianLoss((16, 16), 0.5, w)],
    ids=["w", "sigma", "spectral"],
)
def test_the_gradient_reaches_the_encoder_through_the_weight(make, detach):
    trainer = make_trainer(ELBOLoss(make(WienerLoss(detach_weight=detach)), beta=0.0), batches(1))
    network = trainer.network
    network.decoder.forward = lambda z: torch.zeros(len(z), 1, 16, 16) + 0 * z.sum()  # no other way to the encoder
    trainer.run()
    reached = any(bool(p.grad.abs().sum() > 0) for p in network.encoder.parameters())
    assert reached is not detach


def test_the_objectives_are_moved_to_the_device():
    objective = ELBOLoss(RobustLoss("dct", (16, 16)), auxiliary=[(1.0, SigmaVAELoss())])
    trainer = make_trainer(objective, device="meta")
    tensors = [*objective.parameters(), *objective.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert trainer.loss_function is objective


@pytest.mark.parametrize("channels", [1, 3])
def test_warm_up_equals_l2_to_the_digit(channels):
    arguments = {"data": batches(channels=channels), "epochs": 2, "channels": channels}
    wiener = make_trainer(ELBOLoss(WienerLoss(), warmup_epochs=2), **arguments)
    l2 = make_trainer(ELBOLoss(L2Loss()), **arguments)
    losses = {id(wiener): [], id(l2): []}
    for trainer in (wiener, l2):
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: losses[id(e)].append(e.state.output["loss"].item())
        )
        trainer.run()
    assert losses[id(wiener)] == losses[id(l2)]
    assert same(snapshot(wiener.network.vae_parameters()), l2.network.vae_parameters())
    assert not same(snapshot(wiener.network.kernel_parameters()), l2.network.kernel_parameters())


def test_a_kernel_trained_beside_changes_nothing_else():
    plain = make_trainer(ELBOLoss(L2Loss()), epochs=2)
    beside = make_trainer(ELBOLoss(L2Loss()), epochs=2, train_kernel=True)
    before = snapshot(beside.network.kernel_parameters())
    for trainer in (plain, beside):
        trainer.run()
    assert same(snapshot(plain.network.vae_parameters()), beside.network.vae_parameters())
    assert same(before, plain.network.kernel_parameters())
    assert not same(before, beside.network.kernel_parameters())
    assert BlurVAEKeys.KERNEL in beside.state.output
    assert BlurVAEKeys.KERNEL not in plain.state.output


def test_the_adversary_joins_after_the_warm_up_and_learns_last():
    torch.manual_seed(1)
    adversary = Adversary(0.5, channels=4, layers=1)
    trainer = make_trainer(ELBOLoss(L2Loss(), warmup_epochs=1), batches(1), epochs=2, adversary=adversary)
    before, seen = snapshot(adversary.discriminator.parameters()), []

    @trainer.on(BlurVAEEvents.VAE_STEP_COMPLETED)
    def untouched():
        assert same(before, adversary.discriminator.parameters())

    @trainer.on(BlurVAEEvents.DISCRIMINATOR_STEP_COMPLETED)
    def learned():
        seen.append(trainer.state.epoch)
        assert not same(before, adversary.discriminator.parameters())

    trainer.run()
    out = trainer.state.output
    assert seen == [2]
    parts = out[BlurVAEKeys.RECONSTRUCTION_TERM] + out[BlurVAEKeys.KL] + out[BlurVAEKeys.ADVERSARIAL_TERM]
    torch.testing.assert_close(out[CommonKeys.LOSS], parts)
    means = trainer.epoch_means.compute()
    assert means["adversarial"] == pytest.approx(out[BlurVAEKeys.ADVERSARIAL_TERM].item())
    assert means["discriminator_loss"] == pytest.approx(out[BlurVAEKeys.DISCRIMINATOR_LOSS].item())


def test_the_auxiliary_term_adds_up_with_its_weight():
    objective = ELBOLoss(L2Loss(), auxiliary=[(0.5, SpectrumLoss())])
    trainer = make_trainer(objective, batches(1))
    trainer.run()
    out = trainer.state.output
    spectrum = SpectrumLoss()(out[CommonKeys.PRED], out[CommonKeys.IMAGE])
    torch.testing.assert_close(out[BlurVAEKeys.AUXILIARY], 0.5 * spectrum)
    parts = out[BlurVAEKeys.RECONSTRUCTION_TERM] + out[BlurVAEKeys.KL] + out[BlurVAEKeys.AUXILIARY]
    torch.testing.assert_close(out[CommonKeys.LOSS], parts)


def test_one_forward_feeds_both_steps():
    trainer = make_trainer(ELBOLoss(WienerLoss()))
    calls = []
    trainer.network.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    trainer.network.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    trainer.run()
    assert calls == ["encoder", "decoder"] * 3


def test_the_vae_step_uses_the_kernel_of_the_updated_generator():
    trainer = make_trainer(ELBOLoss(WienerLoss()), batches(1))
    trainer.run()
    output = trainer.state.output
    torch.testing.assert_close(output[BlurVAEKeys.KERNEL], trainer.network.kernel(output[BlurVAEKeys.LATENT]))


@pytest.mark.parametrize("channels", [1, 3])
def test_output_terms_add_up(channels):
    trainer = make_trainer(ELBOLoss(WienerLoss(), beta=3.0), batches(1, channels), channels=channels)
    trainer.run()
    out = trainer.state.output
    expected = out[BlurVAEKeys.RECONSTRUCTION_TERM] + out[BlurVAEKeys.HALF_LOG_DET] + 3.0 * out[BlurVAEKeys.KL]
    torch.testing.assert_close(out[CommonKeys.LOSS], expected)
    assert out[BlurVAEKeys.KERNEL_LOSS].ndim == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_kernel_learns_a_known_blur(channels):
    """A decoder that blurs by a shifted delta has to be found by G, which sees only x and x̂."""
    trainer = make_trainer(ELBOLoss(WienerLoss()), batches(1, channels), epochs=150, channels=channels)
    network = trainer.network
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0
    network.decoder.forward = lambda z: torch.roll(trainer.state.batch["image"], (1, -1), (2, 3)) + 0 * z.sum()
    for group in trainer.kernel_optimizer.param_groups:
        group["lr"] = 0.02
    trainer.run()
    kernel = trainer.state.output[BlurVAEKeys.KERNEL].mean(0)[0]
    # x * k = x shifted down by one row and left by one column
    assert divmod(int(kernel.argmax()), 5) == (3, 1)
    assert kernel.max() > 0.9


def test_noise_is_a_function_of_seed_and_iteration():
    latents = []
    for seed in (0, 0, 1):
        trainer = make_trainer(ELBOLoss(WienerLoss()), seed=seed)
        torch.manual_seed(len(latents))  # global state plays no part
        found = []
        trainer.add_event_handler(
            IterationEvents.FORWARD_COMPLETED,
            lambda e, found=found: found.append(e.state.output[BlurVAEKeys.LATENT].clone()),
        )
        trainer.run()
        latents.append(torch.stack(found))
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[0], latents[2])


def test_a_loss_that_is_not_finite_stops_and_names_iteration_and_files():
    trainer = make_trainer(ELBOLoss(WienerLoss()), batches())

    @trainer.on(Events.ITERATION_STARTED(once=2))
    def spoil():
        trainer.network.decoder.output.conv.bias.data.fill_(float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"kernel loss is nan at iteration 2 \(epoch 1\).*1\.nii\.gz"):
        trainer.run()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("term", [WienerLoss, SigmaVAELoss])
def test_an_image_that_is_not_finite_is_named_and_leaves_no_trace(value, term):
    """Neither in batch norms nor in running estimates, which a checkpoint would hold for good."""
    data = batches()
    data[1]["image"][0, 0, 0, 0] = value
    trainer = make_trainer(ELBOLoss(term()), data)
    with pytest.raises(DataError, match=r"'image' of a batch holds NaN or infinite values, cut from .*1\.nii\.gz"):
        trainer.run()
    for module in (trainer.network, trainer.loss_function):
        assert all(bool(torch.isfinite(state.float()).all()) for state in module.state_dict().values())


class Reads(TorchDispatchMode):
    """Counts how often the host reads a value out of a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("term", "accumulation"), [(WienerLoss, 1), (WienerLoss, 3), (L2Loss, 1), (L2Loss, 3), (SigmaVAELoss, 1)]
)
def test_the_host_reads_one_value_of_the_device_in_an_iteration(term, accumulation):
    """And one of the batch as the loader gave it, which is on the host."""
    arguments = {"gradient_clip": 1.0, "train_kernel": True, "accumulation": accumulation}
    trainer = make_trainer(ELBOLoss(term()), batches(4), fused=True, **arguments)
    with Reads() as reads:
        trainer.run()
    assert reads.count == 2 * 4


@pytest.mark.parametrize("spoilt", ["kernel_generator", "decoder"])
def test_fused_optimizers_leave_a_bad_step_out_and_all_that_follow(spoilt):
    """Weights and the optimizers' state are those of the iteration before, to the bit."""
    trainer = make_trainer(ELBOLoss(WienerLoss()), batches(2), fused=True)
    kept = {}

    @trainer.on(Events.ITERATION_STARTED(once=2))
    def spoil():
        last = list(getattr(trainer.network, spoilt).parameters())[-1]
        last.register_hook(lambda gradient: gradient * float("nan"))
        states = trainer.optimizer.state_dict()["state"], trainer.kernel_optimizer.state_dict()["state"]
        kept.update(weights=snapshot(trainer.network.parameters()), states=deepcopy(states))

    name = "gradient of the kernel loss" if spoilt == "kernel_generator" else "gradient of the loss"
    with pytest.raises(NonFiniteLossError, match=f"the {name} is nan at iteration 2"):
        trainer.run()
    stepped = spoilt == "decoder"  # the kernel step before it was a good one
    assert same(kept["weights"], trainer.network.parameters()) is not stepped
    vae = list(trainer.network.vae_parameters())
    before = dict(zip(map(id, trainer.network.parameters()), kept["weights"], strict=True))
    assert same([before[id(p)] for p in vae], vae)
    found = trainer.optimizer.state_dict()["state"], trainer.kernel_optimizer.state_dict()["state"]
    torch.testing.assert_close(found[0], kept["states"][0], rtol=0, atol=0)
    if not stepped:
        torch.testing.assert_close(found[1], kept["states"][1], rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_an_infinite_gradient_stops_before_the_step(fused):
    trainer = make_trainer(ELBOLoss(L2Loss()), batches(1), fused=fused)
    before = snapshot(trainer.network.vae_parameters())
    trainer.network.decoder.output.conv.bias.register_hook(lambda g: g * float("inf"))
    with pytest.raises(NonFiniteLossError, match="gradient of the loss"):
        trainer.run()
    assert same(before, trainer.network.vae_parameters())


def test_gradient_clip_bounds_the_norm_of_each_step():
    trainer = make_trainer(ELBOLoss(WienerLoss()), gradient_clip=1e-3)
    norms = []

    def record(parameters):
        norms.append(torch.stack([p.grad.norm() for p in parameters]).norm().item())

    trainer.add_event_handler(
        BlurVAEEvents.KERNEL_STEP_COMPLETED, lambda: record(list(trainer.network.kernel_parameters()))
    )
    trainer.add_event_handler(BlurVAEEvents.VAE_STEP_COMPLETED, lambda: record(list(trainer.network.vae_parameters())))
    trainer.run()
    assert len(norms) == 6
    assert all(norm == pytest.approx(1e-3, rel=1e-2) for norm in norms)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_runs_on_the_cpu_with_losses_in_float32(precision):
    reference, low = (make_trainer(ELBOLoss(WienerLoss()), batches(1), precision=p) for p in ("float32", precision))
    dtypes = []
    low.network.encoder.blocks.register_forward_hook(lambda m, i, o: dtypes.append(o.dtype))
    reference.run()
    low.run()
    assert dtypes == [getattr(torch, precision)]
    assert low.state.output[CommonKeys.LOSS].dtype == torch.float32
    assert low.state.output[CommonKeys.LOSS].item() == pytest.approx(reference.state.output["loss"].item(), rel=0.02)
    assert all(p.dtype == torch.float32 for p in low.network.parameters())


def test_the_scale_of_the_losses_changes_no_step_that_does_not_overflow():
    """Powers of two change no digit; SGD shows what Adam's normalisation would hide."""
    networks = []
    for scale in (1.0, 2.0**8):
        trainer = make_trainer(ELBOLoss(WienerLoss()), precision="float16", gradient_clip=10.0)
        trainer.optimizer = torch.optim.SGD(trainer.network.vae_parameters(), 1e-4)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.run()
        networks.append(trainer.network)
        assert trainer.grad_scaler.get_scale() == scale
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_step_that_overflows_is_left_out():
    trainer = make_trainer(ELBOLoss(WienerLoss()), precision="float16")
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = snapshot(trainer.network.vae_parameters())
    seen = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def compare(engine):
        seen.append((engine.grad_scaler.get_scale(), same(before, trainer.network.vae_parameters())))

    trainer.run()
    assert seen == [(2.0**99, True), (2.0**98, True), (2.0**97, True)]


def test_float16_trains_and_ends_with_an_error_where_the_scale_is_not_to_blame():
    levels = torch.linspace(-0.8, 0.8, 6).view(6, 1, 1, 1).expand(6, 1, 16, 16).clone()
    objective = ELBOLoss(WienerLoss(), beta=0.1, warmup_epochs=20)
    trainer = make_trainer(objective, [{"image": levels}], epochs=60, precision="float16")
    errors = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: errors.append((e.state.output[CommonKeys.PRED] - levels).square().mean().item()),
    )
    trainer.run()
    assert errors[-1] < 0.5 * errors[0]
    trainer.network.decoder.output.conv.bias.register_hook(lambda g: g * float("inf"))
    trainer.state.max_epochs = 160
    with pytest.raises(NonFiniteLossError, match="gradient of the loss is"):
        trainer.run()


def test_bad_arguments():
    with pytest.raises(ValueError, match="precision"):
        make_trainer(ELBOLoss(L2Loss()), precision="float8")
    with pytest.raises(ValueError, match="gradient_clip"):
        make_trainer(ELBOLoss(L2Loss()), gradient_clip=0.0)
    for accumulation in (0, "4"):
        with pytest.raises(ValueError, match=f"whole number of micro-batches from 1, but is {accumulation!r}"):
            make_trainer(ELBOLoss(L2Loss()), accumulation=accumulation)


def test_an_objective_whose_parameters_no_optimizer_holds_is_refused():
    network = BlurVAE(image_size=16, channels=(4, 8), latent_size=3, kernel_size=5)
    optimizers = torch.optim.Adam(network.vae_parameters()), torch.optim.Adam(network.kernel_parameters())
    message = (
        r"^RobustLoss has parameters that no optimizer holds \(.*\); add the parameters\(\) of the ELBOLoss to the"
    )
    with pytest.raises(ValueError, match=message):
        BlurVAETrainer("cpu", 1, batches(), network, *optimizers, loss_function=ELBOLoss(RobustLoss()))


def test_a_kernel_step_without_its_optimizer_is_refused():
    network = BlurVAE(image_size=16, channels=(4, 8), latent_size=3, kernel_size=5)
    optimizer = torch.optim.Adam(network.vae_parameters())
    for objective, train_kernel in ((ELBOLoss(WienerLoss()), False), (ELBOLoss(L2Loss()), True)):
        with pytest.raises(ValueError, match="kernel_optimizer is None, but the kernel is to be trained"):
            BlurVAETrainer("cpu", 1, batches(), network, optimizer, None, objective, train_kernel=train_kernel)


def test_a_patch_vae_is_trained_on_noise_of_seed_and_iteration():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        network = PatchVAE(latent_size=3, hidden_size=8)
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        trainer = BlurVAETrainer("cpu", 2, batches(), network, optimizer, None, PatchELBO(), seed=seed)
        torch.manual_seed(len(weights))  # global state plays no part
        trainer.run()
        output = trainer.state.output
        assert output[CommonKeys.PRED].shape == output[CommonKeys.IMAGE].shape
        torch.testing.assert_close(
            output[CommonKeys.LOSS], output[BlurVAEKeys.RECONSTRUCTION_TERM] + output[BlurVAEKeys.KL]
        )
        weights.append(snapshot(network.parameters()))
    assert same(weights[0], weights[1])
    assert not same(weights[0], weights[2])


@pytest.mark.parametrize("data", [[], torch.utils.data.DataLoader([], batch_size=2)])
def test_without_data_it_says_so(data):
    trainer = make_trainer(ELBOLoss(L2Loss()), data)
    with pytest.raises(DataError, match="the training data is empty"):
        trainer.run()


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"picture": torch.zeros(2, 1, 16, 16)}, DataError, r"a batch has the keys \['picture'\], where .* 'image'"),
        ([torch.zeros(2, 1, 16, 16)], DataError, "a batch has the type list, where a dictionary with 'image'"),
        ({"image": torch.zeros(2, 1, 16, 16).byte()}, DataError, r"'image' of a batch is numbers of torch\.uint8"),
        ({"image": torch.zeros(2, 1, 16, 16).double()}, DataError, r"torch\.float64, where .* torch\.float32"),
        ({"image": torch.zeros(2, 1, 8, 16)}, ValueError, r"\(B, \[1, 16, 16\]\), but got \[2, 1, 8, 16\]"),
        ({"image": torch.zeros(2, 16, 16)}, ValueError, r"\(B, \[1, 16, 16\]\), but got \[2, 16, 16\]"),
    ],
)
def test_a_batch_without_the_images_is_refused(batch, error, message):
    with pytest.raises(error, match=message):
        make_trainer(ELBOLoss(L2Loss()), [batch]).run()
    with pytest.raises(error, match=message):
        BlurVAEEvaluator(device="cpu", val_data_loader=[batch], network=make_trainer(ELBOLoss(L2Loss())).network).run()


def test_a_stream_of_batches_begins_where_the_training_is():
    class Stream(list):
        start_iteration = 0

    sampler = Stream([[0, 1], [2, 3]])
    images = torch.rand(4, 1, 16, 16)
    data = torch.utils.data.DataLoader([{"image": image} for image in images], batch_sampler=sampler)
    trainer = make_trainer(ELBOLoss(L2Loss()), data, epochs=3)
    trainer.state.iteration, trainer.state.epoch = 2, 1
    trainer.run()
    assert sampler.start_iteration == 2


def test_an_own_module_is_a_term():
    own = make_trainer(ELBOLoss(torch.nn.MSELoss(), beta=2.0))
    l2 = make_trainer(ELBOLoss(L2Loss()))
    for trainer in (own, l2):
        trainer.run()
    loss = own.state.output[CommonKeys.LOSS], 2 * l2.state.output[CommonKeys.LOSS]
    torch.testing.assert_close(*loss, rtol=1e-4, atol=0)  # Adam's steps do not know of a factor 2


@pytest.mark.parametrize("decollate", [False, True])
def test_the_progress_shows_the_loss_of_an_output_in_one_piece_or_in_pieces(decollate, capsys):
    handlers = [EpochProgressHandler()]
    trainer = make_trainer(ELBOLoss(L2Loss()), batches(1), decollate=decollate, train_handlers=handlers)
    trainer.run()
    output = trainer.state.output[0] if decollate else trainer.state.output
    assert isinstance(trainer.state.output, list) is decollate
    assert f"loss={float(output['loss']):.1f}" in capsys.readouterr().err


def test_training_learns_flat_images():
    levels = torch.linspace(-0.8, 0.8, 6).view(6, 1, 1, 1).expand(6, 1, 16, 16).clone()
    trainer = make_trainer(ELBOLoss(WienerLoss(), beta=0.1, warmup_epochs=20), [{"image": levels}], epochs=120)
    errors = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def record(engine):
        errors.append((engine.state.output[CommonKeys.PRED] - levels).square().mean().item())

    trainer.run()
    assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluator_reconstructs_from_the_posterior_mean(channels):
    trainer = make_trainer(ELBOLoss(L2Loss()), batches(channels=channels), channels=channels)
    data = batches(1, channels)
    evaluator = BlurVAEEvaluator(device="cpu", val_data_loader=data, network=trainer.network)
    evaluator.run()
    trainer.network.eval()
    mu, _ = trainer.network.encode(data[0]["image"])
    torch.testing.assert_close(evaluator.state.output[CommonKeys.PRED], trainer.network.decode(mu))
    assert evaluator.state.output[BlurVAEKeys.KL].shape == (6,)
