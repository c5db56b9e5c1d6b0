"""Whole volumes for inference, each with a sentence if it cannot be used."""

from __future__ import annotations

from typing import Any

from monai.data import Dataset

from monai_blurvae.data.store import data_error


class VolumeDataset(Dataset):
    """MONAI's ``Dataset`` whose error names the file, and the innermost reason in place of MONAI's chain of them.

    Args:
        data: dictionaries with the path of a volume under ``image``.
        transform: the deterministic transform.

    Raises:
        DataError: when an item is asked for that cannot be used.
    """

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except Exception as error:  # a damaged file can raise whatever the reader meets
            raise data_error(str(self.data[index]["image"]), error) from error
