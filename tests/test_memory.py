"""glibc's allocator keeps what was freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from monai_blurvae.memory import keep_freed_memory

if {keep}:
    assert keep_freed_memory()
for i in range(60):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(4_000_000)  # 16 MB: 4,096 pages of 4 kB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    environment = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}  # as they are at the start
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_freed_tensors_cost_no_page_faults_again():
    assert faults(keep=False) > 50 * 100
    assert faults(keep=True) < 50
