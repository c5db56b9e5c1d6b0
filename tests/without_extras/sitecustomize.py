"""On the path of a test's commands: hides the packages that BLURVAE_TESTS_HIDE names, as if they were not installed."""

import os
import sys

sys.modules.update(dict.fromkeys(os.environ.get("BLURVAE_TESTS_HIDE", "").split()))
