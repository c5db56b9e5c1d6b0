"""The alternating training of the kernel generator and the VAE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn, default_prepare_batch
from monai.inferers import Inferer
from monai.transforms import Transform
from monai.utils.enums import CommonKeys
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_blurvae.engines.iteration import BlurVAEEvents, BlurVAEKeys, EpochMeans, images_of
from monai_blurvae.engines.numerics import SMALLEST_SCALE, FiniteCheck, autocast, chosen_precision, grad_scaler
from monai_blurvae.engines.parallel import Averaging, in_micro_batches, share_buffers
from monai_blurvae.errors import DataError, NonFiniteLossError
from monai_blurvae.functional import at_least_float32
from monai_blurvae.losses import Adversary, ELBOLoss, KernelLoss, PatchELBO
from monai_blurvae.networks import BlurVAE, PatchModel, VAEOutput, unwrapped
from monai_blurvae.seeding import normal_rows


class BlurVAETrainer(SupervisedTrainer):
    """Train a :class:`~monai_blurvae.networks.BlurVAE` by alternating two steps on one forward pass.

    A :class:`~monai_blurvae.networks.PatchModel`, which has no kernel, is trained by the second step alone.

    Each iteration encodes and decodes the batch once. The kernel step updates the kernel generator alone (eq. 12), with
    the latent and the reconstruction detached; the VAE step then updates encoder and decoder alone (eq. 11), with
    the kernel of the updated generator. Objectives without a kernel skip the kernel step, unless ``train_kernel`` asks
    for it.

    The network may be wrapped in ``DistributedDataParallel`` with ``find_unused_parameters=True``: its forward does not
    use the kernel generator, whose gradients the trainer averages over the processes itself.

    The noise is a function of (seed, iteration, place in the batch of all processes), so that a resumed training
    repeats it, and several processes have that of one. The attribute ``epoch_means`` holds the means of the terms over
    the epoch so far, of this process, ``grad_scaler`` the scale of the losses.

    With fused optimizers (``fused=True``) the host reads one value of the device in an iteration, whether all was
    finite; otherwise one before each step.

    Args:
        device: where to train; the network has to be there.
        max_epochs: number of epochs.
        train_data_loader: batches as dictionaries with ``image`` in [−1, 1] and, for error messages, ``source``.
        network: the network, or the network in a wrapper.
        optimizer: over ``network.vae_parameters()`` and the parameters that the objective has, if any.
        kernel_optimizer: over ``network.kernel_parameters()``; None where no kernel step is taken.
        loss_function: the objective of the VAE step, with its warm-up; moved to the device, as the next one. One of
            the network's own kind: :class:`~monai_blurvae.losses.PatchELBO` for a ``PatchModel``.
        kernel_loss_function: the objective of the kernel step, :class:`~monai_blurvae.losses.KernelLoss` by default.
        epoch_length: iterations in an epoch; ``len(train_data_loader)`` by default.
        non_blocking: for the copy of the batch to the device.
        prepare_batch: MONAI's hook that takes the images out of the batch.
        inferer: MONAI's hook around the forward pass.
        postprocessing: applied to the batch and the output after each iteration.
        key_train_metric: metric on the training batches.
        additional_metrics: further ones.
        metric_cmp_fn: tells which of two values of the key metric is better.
        train_handlers: Ignite handlers.
        seed: of the noise.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast of the network on the CPU or CUDA;
            ``"auto"``, see :func:`~monai_blurvae.engines.numerics.chosen_precision`.
            With ``"float16"`` the losses are scaled, and a step whose gradient overflows is left out.
        gradient_clip: largest norm of the gradient of each of the two steps; None for no limit.
        train_kernel: whether to train the kernel generator also for an objective that does not use it. It then tells
            how blurred the reconstructions are, and changes nothing else.
        adversary: a discriminator whose term joins the objective after the warm-up; it learns after each VAE step.
        decollate: whether to split batch and output into lists, for postprocessing by MONAI's transforms.
        accumulation: number of micro-batches that a batch goes through the network in, to hold the activations of one
            of them at a time; each goes through twice. Kernel step, VAE step and their losses are still those of the
            whole batch, in their order and with its noise, so that the result is that of ``accumulation=1`` up to
            rounding; but a norm over the batch is one over the micro-batch, and its estimates move with each.

    Raises:
        ValueError: for an unknown precision, a ``gradient_clip`` that is not positive, an objective with parameters
            that no optimizer holds, a kernel step without its optimizer, or fewer micro-batches than one.
        DataError: from ``run``, when there is no training data, or a batch without images.
        NonFiniteLossError: from ``run``, when a loss or a gradient is infinite or not a number. The weights are still
            those before the step.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any] | DataLoader[Any],
        network: BlurVAE | PatchModel | nn.Module,
        optimizer: Optimizer,
        kernel_optimizer: Optimizer | None,
        loss_function: ELBOLoss | PatchELBO,
        kernel_loss_function: KernelLoss | None = None,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        inferer: Inferer | None = None,
        postprocessing: Transform | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        metric_cmp_fn: Callable[[Any, Any], bool] = default_metric_cmp_fn,
        train_handlers: Sequence[Any] | None = None,
        seed: int = 0,
        precision: str = "float32",
        gradient_clip: float | None = None,
        train_kernel: bool = False,
        adversary: Adversary | None = None,
        decollate: bool = False,
        accumulation: int = 1,
    ) -> None:
        self.precision = chosen_precision(precision, device)
        if gradient_clip is not None and not gradient_clip > 0:
            raise ValueError(f"gradient_clip must be positive or null, but is {gradient_clip!r}.")
        if not isinstance(accumulation, int) or accumulation < 1:
            raise ValueError(f"accumulation must be a whole number of micro-batches from 1, but is {accumulation!r}.")
        self.kernel_optimizer = kernel_optimizer
        kernel_loss = KernelLoss() if kernel_loss_function is None else kernel_loss_function
        for objective in (loss_function, kernel_loss):
            _require_optimizer(objective, [held for held in (optimizer, kernel_optimizer) if held is not None])
        if kernel_optimizer is None and (train_kernel or loss_function.uses_kernel):
            raise ValueError("kernel_optimizer is None, but the kernel is to be trained; set train_kernel to false.")
        self.kernel_loss_function = kernel_loss.to(device)
        self.seed = seed
        self.grad_scaler = grad_scaler(device, self.precision)
        self.gradient_clip = gradient_clip
        self.train_kernel = train_kernel
        self.adversary = adversary
        self.accumulation = accumulation
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function.to(device),  # in place: an optimiser over its parameters stays valid
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            inferer=inferer,
            postprocessing=postprocessing,
            key_train_metric=key_train_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            train_handlers=train_handlers,
            event_names=[BlurVAEEvents],
            decollate=decollate,
        )
        self.epoch_means = EpochMeans()
        self._check = FiniteCheck()
        self._averaging = Averaging(network, everything=accumulation > 1)
        self._told: BaseException | None = None
        self.add_event_handler(Events.EPOCH_STARTED, _begin_epoch)
        self.add_event_handler(Events.STARTED, _start_data_stream)

    @property
    def model(self) -> Any:
        """The network without its wrapper."""
        return unwrapped(self.network)

    def run(self) -> None:
        """Train to the last epoch."""
        if self.state.epoch_length == 0 or _is_empty(self.data_loader):
            raise DataError("the training data is empty: train_data_loader gives no batch; give it images.")
        super().run()

    def _iteration(self, engine: SupervisedTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        images = images_of(self, batchdata)
        self._check.reset()
        self.network.train()
        output = self._forward(images)
        self.state.output = {CommonKeys.IMAGE: images, CommonKeys.LABEL: images, **_detached(output)}
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        if self.loss_function.uses_kernel or self.train_kernel:
            self._kernel_step(images, output)
        self._vae_step(images, output)
        if self._adversary_plays:
            self._discriminator_step(images, output)
        self._require_finite()
        self.grad_scaler.update()
        self._averaging.estimates(self.loss_function)
        self.epoch_means.add(self.state.output)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _forward(self, images: Tensor) -> Any:
        """One pass of the network over the batch, its values of at least float32."""
        noise = self._noise(images.shape)
        with autocast(self.state.device, self.precision):
            if self.accumulation == 1:
                output = self.inferer(images, self.network, noise=noise)
            else:
                share_buffers(self.network)
                output = in_micro_batches(self.inferer, self.model, images, noise, self.accumulation)
        return type(output)(*map(at_least_float32, output))

    def _kernel_step(self, images: Tensor, output: VAEOutput) -> None:
        """γ: make x * G(z) the reconstruction; nothing else learns."""
        self.fire_event(BlurVAEEvents.KERNEL_STEP_STARTED)
        kernel = self.model.kernel(output.z.detach())
        loss = self.kernel_loss_function(output.reconstruction.detach(), images, kernel)
        assert self.kernel_optimizer is not None
        self._step(loss, self.kernel_optimizer, "kernel loss")
        self.state.output |= {BlurVAEKeys.KERNEL_LOSS: loss.detach(), BlurVAEKeys.KERNEL: kernel.detach()}
        self.fire_event(BlurVAEEvents.KERNEL_STEP_COMPLETED)

    def _vae_step(self, images: Tensor, output: Any) -> None:
        """θ and φ: lower the negative ELBO under the kernel of the generator as it is now."""
        self.fire_event(BlurVAEEvents.VAE_STEP_STARTED)
        kernel = None
        if self.loss_function.uses_kernel:
            kernel = self._kernel(output.z if self.loss_function.weight_needs_gradient else output.z.detach())
            self.state.output[BlurVAEKeys.KERNEL] = kernel.detach()
        terms = self.loss_function(output, images, kernel, epoch=self.state.epoch)
        self.state.output |= {
            BlurVAEKeys.RECONSTRUCTION_TERM: terms.reconstruction.detach(),
            BlurVAEKeys.HALF_LOG_DET: terms.half_log_det.detach(),
            BlurVAEKeys.KL: terms.kl.detach(),
        }
        if self.loss_function.auxiliary_weights:
            self.state.output[BlurVAEKeys.AUXILIARY] = terms.auxiliary.detach()
        loss = terms.loss + self._adversarial_term(output) if self._adversary_plays else terms.loss
        self.state.output[CommonKeys.LOSS] = loss.detach()
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self._step(loss, self.optimizer, "loss")
        self.fire_event(BlurVAEEvents.VAE_STEP_COMPLETED)

    def _kernel(self, z: Tensor) -> Tensor:
        """The kernels of the generator as it is now, which does not learn from them."""
        generator = self.model.kernel_generator
        weights = {name: value.detach() for name, value in generator.named_parameters()}
        kernel: Tensor = functional_call(generator, weights, (z,))
        return kernel

    @property
    def _adversary_plays(self) -> bool:
        return self.adversary is not None and self.state.epoch > self.loss_function.warmup_epochs

    def _adversarial_term(self, output: VAEOutput) -> Tensor:
        assert self.adversary is not None
        term = self.adversary.generator_term(output.reconstruction)
        self.state.output[BlurVAEKeys.ADVERSARIAL_TERM] = term.detach()
        return term

    def _discriminator_step(self, images: Tensor, output: VAEOutput) -> None:
        """The discriminator alone: tell the images from their reconstructions."""
        assert self.adversary is not None
        loss = self.adversary.discriminator_loss(output.reconstruction, images)
        self._step(loss, self.adversary.optimizer, "discriminator loss")
        self.state.output[BlurVAEKeys.DISCRIMINATOR_LOSS] = loss.detach()
        self.fire_event(BlurVAEEvents.DISCRIMINATOR_STEP_COMPLETED)

    def _step(self, loss: Tensor, optimizer: Optimizer, name: str) -> None:
        """Backward and update, which changes nothing where the loss or its gradient is not finite."""
        self._check.add(name, loss)
        self._backward(loss, optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._averaging.gradients(parameters)
        self.grad_scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if not self.grad_scaler.is_enabled() or self.grad_scaler.get_scale() <= SMALLEST_SCALE:
            self._check.add(f"gradient of the {name}", norm)
        if self.gradient_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip, norm)
        if self._check.can_guard(optimizer) and not self.grad_scaler.is_enabled():
            self._check.guarded_step(optimizer)
        else:
            self._require_finite()
            self.grad_scaler.step(optimizer)  # not where float16 has overflowed

    def _backward(self, loss: Tensor, optimizer: Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = self.grad_scaler.scale(loss)
        if optimizer is self.kernel_optimizer:
            # not by backward(), of which DistributedDataParallel would hear, whose turn is the VAE step
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                p.grad = gradient
            return
        loss.backward()
        if optimizer is self.optimizer:
            self.fire_event(IterationEvents.BACKWARD_COMPLETED)

    def _require_finite(self) -> None:
        """Raise for the first loss or gradient of this iteration that is not finite."""
        bad = self._check.first_bad()
        if bad is None:
            return
        name, value = bad
        batch = self.state.batch
        sources = batch.get("source", []) if isinstance(batch, Mapping) else []
        files = f" The batch was cut from {', '.join(sorted(set(sources)))}." if sources else ""
        raise NonFiniteLossError(
            f"the {name} is {value} at iteration {self.state.iteration} (epoch {self.state.epoch}): lower the "
            f"learning rate, set gradient_clip, or look at the images; the last checkpoint is intact.{files}"
        )

    def _handle_exception(self, e: BaseException) -> None:
        """Tell the handlers, and raise; Ignite alone would drop the error once a handler has heard of it."""
        if self._told is not e:
            self._told = e
            self._fire_event(Events.EXCEPTION_RAISED, e)
        raise e

    def _noise(self, image_shape: Sequence[int]) -> Tensor:
        """Standard normal noise of this process's part of the iteration, the same numbers on every device."""
        rows, width = self.model.noise_shape(image_shape)
        noise = normal_rows(self.state.rank * rows, rows, width, self.seed, "noise", self.state.iteration)
        return noise.to(self.state.device)


def _detached(output: Any) -> dict[str, Tensor]:
    """What the output has of these: not every model has a Gaussian latent."""
    names = {
        CommonKeys.PRED: "reconstruction",
        BlurVAEKeys.MU: "mu",
        BlurVAEKeys.LOG_VAR: "log_var",
        BlurVAEKeys.LATENT: "z",
    }
    return {key: getattr(output, name).detach() for key, name in names.items() if hasattr(output, name)}


def _begin_epoch(engine: BlurVAETrainer) -> None:
    """Reset the means, but not in the middle of an epoch, where a resumed training may begin."""
    if engine.state.iteration % engine.state.epoch_length == 0:
        engine.epoch_means.reset()


def _start_data_stream(engine: Engine) -> None:
    """Let a stream of batches that runs on over the epochs begin where the training is, after a resume in its midst."""
    sampler = getattr(engine.data_loader, "batch_sampler", None)
    if sampler is not None and hasattr(sampler, "start_iteration"):
        sampler.start_iteration = engine.state.iteration


def _is_empty(loader: Iterable[Any]) -> bool:
    try:
        return len(loader) == 0  # type: ignore[arg-type]
    except TypeError:  # a stream of unknown length
        return False


def _require_optimizer(objective: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse parameters that nothing would train, naming the part of the objective that has them."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for module in objective.modules():
        left = [n for n, p in module.named_parameters(recurse=False) if p.requires_grad and id(p) not in held]
        if left:
            raise ValueError(
                f"{type(module).__name__} has parameters that no optimizer holds ({', '.join(left)}); add the "
                f"parameters() of the {type(objective).__name__} to the parameter groups of the optimizer."
            )
