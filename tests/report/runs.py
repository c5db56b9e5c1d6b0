"""Folders of runs as a training and an evaluation leave them, without a training."""

import csv
import json
from itertools import count

import numpy as np
import torch

from monai_blurvae.functional import gaussian_kernel
from monai_blurvae.handlers.evaluation_record import EvaluationRecord
from monai_blurvae.handlers.monitoring import open_event_file
from monai_blurvae.handlers.pictures import FigureRow, draw_rows, scale_kernels

SETTINGS = {
    "imports": ["$import os"],
    "bundle_root": "$'.'",
    "dataset_dir": "/data/t1",
    "image_pattern": "*.nii.gz",
    "channels": [16, 32],
    "latent_size": 20,
    "kernel_size": 11,
    "patch_size": 64,
    "beta": 1.0,
    "lr": 0.0001,
    "max_epochs": 20,
    "my_momentum": None,
    "network": {"_target_": "torch.nn.Identity"},
    "train": {
        "term": {"_target_": "monai_blurvae.losses.WienerLoss", "c": "@wiener_c", "weighting": "wiener"},
        "objective": {"_target_": "monai_blurvae.losses.ELBOLoss", "term": "@train#term", "determinant": "omit"},
    },
    "run": "%training",
}
VERSIONS = {"monai-blurvae": "0.1.0", "torch": "2.15.0", "git": None}
DATALIST = {
    "description": "*.nii.gz in /data/t1",
    "dataset_dir": "/data/t1",
    "training": [{"image": f"s{i}.nii.gz", "subject": f"s{i}"} for i in range(6)],
    "validation": [{"image": "s6.nii.gz", "subject": "s6"}],
    "test": [{"image": f"s{i}.nii.gz", "subject": f"s{i}"} for i in (7, 8)],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def saturating(epoch):
    """A validation PSNR that has long converged."""
    return 20 - 8 * np.exp(-epoch / 2)


def make_run(folder, epochs=20, size=32, channels=1, kernel=True, finished=True, psnr=saturating, **settings):
    """A run with curves and pictures; ``evaluate`` adds the test."""
    write(folder / "config.json", SETTINGS | {"patch_size": size, "in_channels": channels} | settings)
    write(folder / "datalist.json", DATALIST)
    write(folder / "versions.json", VERSIONS)
    if finished:
        write(folder / "summary.json", {"epochs": epochs, "skipped": [], "finished": "2026-01-02T03:04:05+0000"})
    write_events(folder / "tensorboard", range(1, epochs + 1), size, channels, kernel, psnr)
    return folder


def write_events(folder, epochs, size=32, channels=1, kernel=True, psnr=saturating, every=2):
    """Event files as the TensorBoard handler writes them; again for a run that was resumed."""
    images = photographs(4, channels, size)
    with open_event_file(folder, epochs[0]) as writer:
        for epoch in epochs:
            terms = {"loss": 1000 / epoch + 50, "reconstruction": 900 / epoch, "half_log_det": 0.0, "kl": 50.0}
            terms |= {"kernel_loss": 100 / epoch} if kernel else {}
            for name, value in terms.items():
                writer.add_scalar(f"train/{name}", value, epoch)
            writer.add_scalar("train/kernel_width", 2.5 + 2 / epoch, epoch)
            if epoch % every:
                continue
            metrics = {"psnr": psnr(epoch), "ssim": 0.5, "kl": 48.0, "active_units": 20, "kernel_width": 2.5}
            for name, value in metrics.items():
                writer.add_scalar(f"validation/{name}", value, epoch)
            rows = [FigureRow(name, images) for name in ("input", "reconstruction", "sample")]
            writer.add_image("input, reconstruction, sample", draw_rows(rows), epoch, dataformats="HWC")
            kernels = scale_kernels(gaussian_kernel(11, 1 + 4 / epoch).expand(4, 1, 11, 11), size)
            writer.add_image("kernels", draw_rows([FigureRow("kernels", kernels)]), epoch, dataformats="HWC")


def photographs(number, channels, size):
    """Images in [0, 1] with the detail of photographs, ``(number, channels, size, size)``."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) + 1 / size
    noise = np.fft.fft2(rng.normal(size=(number, channels, size, size))) / frequency**1.2
    images = np.fft.ifft2(noise).real
    images = images / images.std((1, 2, 3), keepdims=True) / 5 + 0.5
    return torch.from_numpy(images.clip(0, 1))


def evaluate(
    folder,
    number=8,
    size=32,
    channels=1,
    kernel_size=11,
    kernel_variance=2.0,
    names=None,
    draws=("variance", "kernel", "spectrum"),
    **about,
):
    """The record and table of an evaluation of 40 images, with draws from some densities."""
    images = (photographs(number, channels, size).numpy() * 255).astype(np.uint8)
    reconstructions = ((images.astype(int) + np.roll(images, 2, -1)) // 2).astype(np.uint8)
    rng = np.random.default_rng(1)
    kernel = gaussian_kernel(kernel_size, kernel_variance)[0, 0].double().numpy()
    frequencies = np.arange(1, size // 2 + 1) / size
    power = 1e-2 / frequencies**2
    rows = make_rows(40, names)
    metrics = {name: {"mean": 20.0, "std": 1.0} for name in ("psnr", "ssim", "kl", "kernel_width")}
    patches = names is None
    content = {
        "title": "test",
        "remark": "",
        "evaluated_on": "40 patches of 2 subjects" if patches else "40 images",
        "images": 40,
        "subjects": 2 if patches else None,
        "metrics": metrics,
        "active_units": 18,
        "latent_size": 20,
        "training_voxel_size": [0.7, 0.7] if patches else [0.0, 0.0],
        "voxel_size": [0.7, 0.7] if patches else None,
        "quarter_turns": 1 if patches else 0,
        "examples": rows[:number],
        "draws": {
            "likelihoods": list(draws),
            "outside": dict.fromkeys(draws, 0.0125),
            "fitted_on": "16 patches of 1 subject" if draws else "",
            "missing": "" if draws else "there are no validation images.",
        },
    }
    noisy = [(images + rng.normal(0, 20, images.shape)).clip(0, 255).astype(np.uint8) for _ in draws]
    noisy = np.stack(noisy) if draws else np.empty((0, *images.shape), np.uint8)
    draw_power = np.stack([power] * len(draws)) if draws else np.empty((0, len(power)))
    folder.mkdir(parents=True, exist_ok=True)
    EvaluationRecord(
        images,
        reconstructions,
        images[::-1],
        np.stack([kernel] * number),
        kernel,
        frequencies,
        power,
        power / 3,
        power / 9,
        noisy,
        noisy[:, ::-1],
        draw_power,
        draw_power * 2,
        rng.uniform(0, 2, 20),
        content | about,
    ).write(folder / "evaluation.npz")
    write(folder / "yardstick.json", yardstick())
    with (folder / "metrics.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def yardstick(**changes):
    """A network that is better than the linear model."""
    figures = {"psnr": 20.0, "ssim": 0.5, "sharpness_reconstruction": 0.2, "spectrum_reconstruction": 0.3, "kl": 50.0}
    content = {
        "title": "test",
        "evaluated_on": "40 patches of 2 subjects",
        "problem": "",
        "fitted_on": "8192 patches of 6 subjects of the training",
        "latent_size": 20,
        "beta": 1.0,
        "weight": "1",
        "samples": 8,
        "network": {**figures, "objective": 100.0},
        "linear": {**figures, "kl": 40.0, "objective": 110.0},
        "equal_rate": {"beta": 0.5, **figures, "psnr": 19.0, "objective": None},
        "behind": False,
        "verdict": "better than a 20-component linear model in its bound (110.0 for it against 100.0 nats at β = 1)",
    }
    return content | changes


def make_rows(number, names=None):
    rows = []
    for i, _ in zip(count(), range(number), strict=False):
        place = {"subject": f"s{7 + i % 2}", "slice": 10 + i, "row": 3, "column": 4}
        place = {"image": names[i % len(names)]} if names else place
        rows.append({**place, "psnr": 15 + i * 0.25, "ssim": 0.5 + i / 100, "kl": 40.0 + i, "kernel_width": 2.5})
    return rows
