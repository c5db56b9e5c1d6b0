"""A report of any run as one HTML file, from what the run left in its folder."""

from monai_blurvae.report.document import write_report

__all__ = ["write_report"]
