"""Checkpoints hold whatever has a state, and give it back to the bit."""

import itertools
import re

import pytest
import torch
from ignite.engine import Events
from monai.handlers import LrScheduleHandler
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_blurvae.engines import BlurVAEEvaluator, BlurVAETrainer
from monai_blurvae.errors import RunFolderError, SettingsError
from monai_blurvae.handlers import BestModelHandler, ModelCheckpointLoader, RestartCheckpointHandler
from monai_blurvae.handlers.checkpoint import load_safely, save_whole
from monai_blurvae.losses import ELBOLoss, RobustLoss, SigmaVAELoss
from monai_blurvae.networks import BlurVAE

SIZES = {"image_size": 8, "channels": (4,), "latent_size": 3, "kernel_size": 3, "kernel_hidden_size": 5}


class Average:
    """An exponential moving average of the weights, as a user would write it."""

    def __init__(self, network):
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.network = network

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine):
        self.average.update_parameters(self.network)


class Stream:
    """Three batches again and again, from wherever the training is."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.batches = [{"image": torch.rand(4, 1, 8, 8, generator=generator) * 2 - 1} for _ in range(3)]
        self.batch_sampler, self.start_iteration = self, 0

    def __len__(self):
        return 3

    def __iter__(self):
        return (self.batches[i % 3] for i in itertools.count(self.start_iteration))


class Stop(Exception):
    pass


def make_run(
    path, epochs=4, scheduler=lr_scheduler.StepLR, precision="float32", term=SigmaVAELoss, config=dict, **more
):
    """A trainer with all that may have a state, and the objects of its checkpoint."""
    torch.manual_seed(0)
    network = BlurVAE(**SIZES)
    objective = ELBOLoss(term())
    optimizer = torch.optim.Adam([*network.vae_parameters(), *objective.parameters()], 1e-2)
    kernel_optimizer = torch.optim.Adam(network.kernel_parameters(), 1e-2)
    average = Average(network)
    settings = {"step_size": 1, "gamma": 0.5} if scheduler is lr_scheduler.StepLR else more.pop("settings")
    schedule = LrScheduleHandler(scheduler(optimizer, **settings), print_lr=False)
    objects = {
        "network": network,
        "optimizer": optimizer,
        "kernel_optimizer": kernel_optimizer,
        "objective": objective,
        "lr_scheduler": schedule.lr_scheduler,
        "average": average.average,
        "nothing": None,
    }
    objects = {name: item for name, item in objects.items() if name not in more.get("without", ())}
    checkpoint = RestartCheckpointHandler(path, objects, minutes=more.get("minutes"), config=config)
    trainer = BlurVAETrainer(
        "cpu",
        epochs,
        Stream(),
        network,
        optimizer,
        kernel_optimizer,
        loss_function=objective,
        train_handlers=[checkpoint, schedule, average],
        train_kernel=True,
        precision=precision,
    )
    if precision == "float16":
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=2)
    return trainer, objects


def states(trainer, objects):
    everything = {**objects, "scaler": trainer.grad_scaler, "means": trainer.epoch_means}
    return {name: item.state_dict() for name, item in everything.items() if item is not None}


def assert_equal(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}/{i}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{where}: {a} and {b}"


SCHEDULES = {
    "step": (lr_scheduler.StepLR, {}),
    "milestones": (lr_scheduler.MultiStepLR, {"milestones": [1, 3]}),
    "one cycle": (lr_scheduler.OneCycleLR, {"max_lr": 0.02, "total_steps": 5}),
}


@pytest.mark.parametrize(
    ("schedule", "term", "precision"),
    [
        ("step", SigmaVAELoss, "float32"),
        ("milestones", RobustLoss, "float32"),
        ("one cycle", RobustLoss, "float16"),
    ],
)
@pytest.mark.parametrize("after", [3, 5])
def test_an_interrupted_training_ends_as_a_straight_one(after, schedule, term, precision, tmp_path):
    scheduler, settings = SCHEDULES[schedule]
    arguments = {"scheduler": scheduler, "settings": settings, "precision": precision, "term": term}
    straight, expected = make_run(tmp_path / "straight.pt", **arguments)
    straight.run()
    first, _ = make_run(tmp_path / "cut.pt", minutes=0.0, **arguments)

    @first.on(Events.ITERATION_STARTED(once=after + 1))
    def stop():
        raise Stop

    with pytest.raises(Stop):
        first.run()
    second, found = make_run(tmp_path / "cut.pt", **arguments)
    begun = []
    second.add_event_handler(Events.ITERATION_STARTED(once=after + 1), lambda e: begun.append(e.state.iteration))
    second.run()
    assert begun == [after + 1]
    assert_equal(states(second, found), states(straight, expected))
    if precision == "float16":  # with a scale that overflowed at first
        assert straight.grad_scaler.get_scale() < 2.0**100
    assert straight.optimizer.param_groups[0]["lr"] != 1e-2


def test_a_checkpoint_loads_without_running_code(tmp_path):
    trainer, _ = make_run(tmp_path / "c.pt", epochs=1, precision="float16")
    trainer.run()
    objects = load_safely(tmp_path / "c.pt")["objects"]
    assert objects["lr_scheduler"]["last_epoch"] == 1
    assert objects["trainer.grad_scaler"]["scale"] < 2.0**100
    assert objects["trainer.epoch_means"]["count"] == 3


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lr_scheduler", r"lr_scheduler of LrScheduleHandler, StepLR,"),
        ("average", r"average of Average, AveragedModel,"),
        ("objective", r"loss_function of BlurVAETrainer, ELBOLoss,"),
        ("network", r"network of BlurVAETrainer, BlurVAE,"),
        ("kernel_optimizer", r"kernel_optimizer of BlurVAETrainer, Adam,"),
    ],
)
def test_what_no_checkpoint_would_hold_is_refused_at_the_start(name, found, tmp_path):
    trainer, _ = make_run(tmp_path / "c.pt", without=[name])
    with pytest.raises(
        SettingsError, match=f"^{found} has a state that no checkpoint .* add it to the section checkpoint"
    ):
        trainer.run()
    assert trainer.state.iteration == 0


def test_handlers_in_lists_behind_filters_and_with_a_state_of_their_own_are_found(tmp_path):
    class Own:
        def state_dict(self):
            return {}

        load_state_dict = state_dict

        def __call__(self, engine):
            pass

    class Several:
        def __init__(self):
            self.parts = [Own()]

        def step(self, engine):
            pass

    for handler, found in ((Own(), "Own"), (Several().step, r"parts\[0\] of Several, Own,")):
        trainer, _ = make_run(tmp_path / "c.pt")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), handler)
        with pytest.raises(SettingsError, match=f"^{found} has a state"):
            trainer.run()


def test_a_state_that_could_not_come_back_is_refused_at_the_start(tmp_path):
    class Schedule(lr_scheduler.StepLR):
        def state_dict(self):
            return {**super().state_dict(), "path": tmp_path}

    trainer, _ = make_run(tmp_path / "c.pt", scheduler=Schedule, settings={"step_size": 1})
    with pytest.raises(SettingsError, match=r"the state of 'lr_scheduler' \(Schedule\) holds more than tensors"):
        trainer.run()


def test_other_objects_are_refused_by_name(tmp_path):
    make_run(tmp_path / "c.pt", epochs=1)[0].run()
    content = load_safely(tmp_path / "c.pt")
    extra = {**content["objects"], "discriminator": {}}
    lacking = {name: state for name, state in content["objects"].items() if name != "average"}
    other = {**content["objects"], "optimizer": {"state": {}, "param_groups": []}}
    for saved, message in (
        (extra, "holds the object 'discriminator', which is not there now; add it to the section checkpoint"),
        (lacking, "lacks the object 'average'; take it out of the section checkpoint"),
        (other, "the state of 'optimizer' in .* does not fit: loaded state dict has a different number of parameter"),
    ):
        save_whole({**content, "objects": saved}, tmp_path / "c.pt")
        again, _ = make_run(tmp_path / "c.pt", epochs=1)
        with pytest.raises(RunFolderError, match=message):
            again.run()


RESUME = "resume with the same value"


@pytest.mark.parametrize(
    ("here", "message"),
    [
        (
            {"train#objective#beta": 2.0, "lr": 0.1},
            "^train#objective#beta is 2.0, but the run in {} was trained with 1.0; ",
        ),
        ({"train#objective#beta": 1.0}, "^lr is missing, but the run in {} was trained with 0.1; "),
        (
            {"train#objective#beta": 1.0, "lr": 0.1, "channels": (4,)},
            "^channels is [4], but the run in {} was trained with nothing; ",
        ),
        (
            {"train#objective#beta": 2.0, "lr": 0.1, "x": None},
            "^train#objective#beta is 2.0, but the run in {} was trained with 1.0, x is null, not nothing; ",
        ),
    ],
)
def test_another_configuration_is_refused_by_name(here, message, tmp_path):
    there = {"train#objective#beta": 1.0, "lr": 0.1}
    make_run(tmp_path / "c.pt", epochs=1, config=lambda: there)[0].run()
    with pytest.raises(SettingsError, match="^" + re.escape(message.format(tmp_path)[1:] + RESUME)):
        make_run(tmp_path / "c.pt", config=lambda: here)[0].run()


def test_tuples_are_lists(tmp_path):
    make_run(tmp_path / "c.pt", epochs=1, config=lambda: {"channels": (4, (8, 16))})[0].run()
    trainer, _ = make_run(tmp_path / "c.pt", epochs=2, config=lambda: {"channels": [4, [8, 16]]})
    trainer.run()
    assert trainer.state.epoch == 2


def validation(network, *handlers):
    return BlurVAEEvaluator("cpu", [{"image": torch.zeros(2, 1, 8, 8)}], network, val_handlers=handlers)


@pytest.mark.parametrize("wrap", [lambda n: n, torch.nn.DataParallel])
@pytest.mark.parametrize("give", [lambda p: p, str, lambda p: lambda: p])
def test_the_model_is_written_and_loaded_whatever_wraps_it(give, wrap, tmp_path):
    torch.manual_seed(0)
    first, second = BlurVAE(**SIZES), BlurVAE(**SIZES)
    evaluator = validation(first, BestModelHandler(give(tmp_path / "model.pt"), wrap(first)))
    evaluator.state.best_metric_epoch = 1
    evaluator.run(1)
    validation(second, ModelCheckpointLoader(give(tmp_path / "model.pt"), wrap(second))).run()
    assert_equal(dict(second.state_dict()), dict(first.state_dict()))


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, RunFolderError, "is not there"),
        ([1], RunFolderError, "holds no network weights; give a model.pt"),
        ({"weight": torch.zeros(1)}, RunFolderError, "holds the weights of another network than BlurVAE"),
        (BlurVAE(**SIZES | {"latent_size": 4}).state_dict(), ValueError, "latent_size is 4 there and 3 here"),
    ],
)
def test_what_is_no_model_is_refused(content, error, message, tmp_path):
    if content is not None:
        save_whole(content, tmp_path / "model.pt")
    network = BlurVAE(**SIZES)
    with pytest.raises(error, match=message):
        validation(network, ModelCheckpointLoader(tmp_path / "model.pt", network)).run()
