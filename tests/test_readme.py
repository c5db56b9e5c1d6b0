"""The README's Python runs as it stands."""

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs_and_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace = {}
    exec(compile(code, str(README), "exec"), namespace)
    assert namespace["log_density"].shape == (8,)
    assert torch.isfinite(namespace["log_density"]).all()
    statements = [line for line in code.splitlines() if line.strip()]
    assert len(statements) <= 15
