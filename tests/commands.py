"""Commands in processes of their own."""

import os

from tests.volumes import ROOT

EXTRAS = {
    "perceptual": ("torchvision", "torchmetrics", "lpips"),
    "fid": ("torch_fidelity",),
    "study": ("pandas", "matplotlib", "tabulate"),
    "sample": ("nilearn", "sklearn"),
    "tracking": ("mlflow", "pyarrow"),
    "recon": ("deepinv", "h5py", "sigpy"),
    "development": ("IPython",),
}
"""The packages of each extra, those that come along with them included."""


def environment(*extras, **more):
    """Of a process that finds this package and, beside what it needs, the packages of some extras only.

    MONAI imports whatever it finds, and is twice as fast to import as a user has it who installed no extras.

    Args:
        extras: keys of :data:`EXTRAS`; ``"all"`` to hide nothing.
        more: further variables.
    """
    hidden = [] if "all" in extras else [name for extra in EXTRAS.keys() - extras for name in EXTRAS[extra]]
    path = os.pathsep.join((str(ROOT / "tests/without_extras"), str(ROOT)))
    given = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "BLURVAE_TESTS_HIDE": " ".join(sorted(hidden))}
    return {**os.environ, **given, **{name: str(value) for name, value in more.items()}}
