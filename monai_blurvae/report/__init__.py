"""A report of any run as one HTML file, from what the run left in its folder."""

from monai_blurvae.report.run import write_report
from monai_blurvae.report.scans import write_reconstructions

__all__ = ["write_reconstructions", "write_report"]
