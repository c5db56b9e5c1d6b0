"""From an image file or a row of CIFAR-10 to a small square of bytes, through MONAI's reader for Pillow."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, PILReader
from monai.transforms import MapTransform
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from monai_blurvae.errors import DataError
from monai_blurvae.files import how_to_get, is_absent

IMAGE_SHAPE = (3, 32, 32)
ROW = re.compile(r"(.+)#([0-9]{1,9})", re.DOTALL)
"""The path of a batch and a row in it."""
BATCHES_IN_MEMORY = 6
"""All, 31 MB each: images are drawn in random order, and with fewer nearly every one would cost reading a batch."""


CIFAR_MD5 = {
    "c99cafc152244af753f735de768cd75f",
    "d4bba439e000b95fd0a9bffe97cbabec",
    "54ebc095f3ab1f0389bbae665268c751",
    "634d18415352ddfa80567beed471001a",
    "482c414d41f54cd18b22e5b47cb7c3cb",
    "40351d587109b95175f43aff81a1287e",
}
"""Checksums of the six batches, as torchvision knows them; what has another is not unpickled."""


def read_cifar_batch(path: str | Path) -> npt.NDArray[np.uint8]:
    """The images of a batch of CIFAR-10's python version (Krizhevsky, Learning Multiple Layers of Features, 2009).

    Args:
        path: ``data_batch_1`` to ``data_batch_5`` or ``test_batch``, as distributed.

    Returns:
        (N, 3, 32, 32), red, green and blue, 0 to 255, read-only.

    Raises:
        DataError: if the file is missing or not as it was distributed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check dataset_dir.") from error
    checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if checksum not in CIFAR_MD5:
        raise DataError(
            f"{path} is no batch of CIFAR-10's python version ({len(content)} bytes with the MD5 checksum {checksum}, "
            "which is that of none); unpack cifar-10-python.tar.gz again."
        )
    images: npt.NDArray[np.uint8] = pickle.loads(content, encoding="bytes")[b"data"].reshape(-1, *IMAGE_SHAPE)
    images.flags.writeable = False
    return images


def is_cifar_row(path: str) -> bool:
    """Whether a path names a row of a batch, as ``"…/data_batch_1#17"`` does: the name of no image ends so."""
    return ROW.fullmatch(path) is not None


def read_cifar_image(path: str) -> Image.Image:
    """One image of a batch; the batches are kept in memory, up to 184 MB in each process that reads images of all.

    Args:
        path: of the batch and the row in it, ``"…/data_batch_1#17"``.

    Returns:
        RGB, 32×32.

    Raises:
        DataError: if the path does not end so, there is no such row, or as :func:`read_cifar_batch` says.
    """
    match = ROW.fullmatch(path)
    if match is None:
        raise DataError(f"{path} does not name a row of a CIFAR-10 batch; write it like data_batch_1#17.")
    file, row = Path(match.group(1)), int(match.group(2))
    images = _cached_batch(file, *_version(file))
    if row >= len(images):
        raise DataError(f"{path} names a row that is not there: {file} has the rows 0 to {len(images) - 1}.")
    return Image.fromarray(np.ascontiguousarray(images[row].transpose(1, 2, 0)))


@lru_cache(maxsize=BATCHES_IN_MEMORY)
def _cached_batch(path: Path, *_version: int) -> npt.NDArray[np.uint8]:
    return read_cifar_batch(path)


def _version(path: Path) -> tuple[int, int]:
    """What tells a file from the one that was there before."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # which reading it will explain
    return status.st_mtime_ns, status.st_size


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

FORMATS_OF_16_BITS = ("PNG", "PPM")
"""Formats that hold at most 16 bits, so that Pillow's mode "I", 32-bit integers, has values up to 65535."""

BLACK_IS_ZERO = 1
"""Of a TIFF's photometric interpretation."""


class ToChannels:
    """Turn a Pillow image of any kind into 8 bits in one or three channels: a ``converter`` for MONAI's ``PILReader``.

    - EXIF orientation is applied; one that cannot be read counts as none.
    - Of animations and files with several pages the first is taken.
    - Palettes are replaced by their colours, and 1 bit by 0 and 255.
    - Transparency, as a channel, in a palette or as one transparent value, is composited on white.
    - Greyscale is repeated for three channels; colour becomes luma, (299 R + 587 G + 114 B) / 1000, for one.
    - 16-bit greyscale v becomes round(v / 257), its full range. Of 16-bit colour Pillow keeps the upper 8 bits.
    - CMYK (also as Adobe's JPEGs store it), YCbCr, LAB and HSV become RGB by Pillow; embedded colour profiles are
      not applied.
    - Floating point, integers of 32 bits or with a sign, and 16-bit TIFFs whose range is not black at 0 to white at
      65535 are refused: nobody but the user knows which values are black and white.

    A file that ends early is an error even where ``ImageFile.LOAD_TRUNCATED_IMAGES`` is set.

    Args:
        channels: 3 for RGB (Pillow's mode ``"RGB"``) or 1 for greyscale (``"L"``).

    Raises:
        ValueError: for another number of channels.
        DataError: when it is called, for an image that is refused, naming its file.

    Example:
        >>> ToChannels(1)(Image.new("RGB", (4, 2), "white")).getpixel((0, 0))
        255
    """

    def __init__(self, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (greyscale) or 3 (colour), but is {channels!r}.")
        self.channels = channels

    def __call__(self, image: Image.Image) -> Image.Image:
        """Convert an image, and close its file."""
        return _convert(image, self.channels, getattr(image, "filename", "") or "the image")


class PrepareImaged(MapTransform):
    """Load images, cut the square at the centre of each and resize it.

    The conversions are those of :class:`ToChannels`. The crop starts at row ``height // 2 − crop_size // 2`` and column
    ``width // 2 − crop_size // 2``, as that of MONAI's ``CenterSpatialCrop``: the larger part of an odd margin is below
    and right for an even ``crop_size``, above and left for an odd one. A square of another size than ``image_size`` is
    resized by Pillow's Lanczos filter, whose support grows with the reduction, so that nothing is aliased.

    Args:
        keys: of paths of image files or, like ``"data_batch_1#17"``, of rows of a CIFAR-10 batch. Each path becomes a
            uint8 ``MetaTensor`` (channels, image_size, image_size), 0 to 255, that knows its file.
        image_size: rows and columns of the result.
        crop_size: rows and columns that are cut out of the centre; None for the largest square.
        channels: 3 for RGB, 1 for greyscale.
        load: reads the image of a path in place of MONAI's ``PILReader`` and the reader of CIFAR-10's batches.

    Raises:
        ValueError: for sizes that are not positive and numbers of channels other than 1 and 3.
        DataError: when it is called, if the image is not there, cannot be read to its end, is of a kind that is
            refused, or is smaller than ``crop_size``.

    Example:
        >>> PrepareImaged("image", image_size=64, crop_size=148).crop_size
        148
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_size: int,
        crop_size: int | None = None,
        channels: int = 3,
        load: Callable[[str], Image.Image] | None = None,
    ) -> None:
        super().__init__(keys)
        for name, size in (("image_size", image_size), ("crop_size", crop_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be positive, but is {size!r}.")
        self.image_size = image_size
        self.crop_size = crop_size
        self.channels = channels
        self.load = load
        # LoadImage would give the same values, but takes as long again as decoding a small photograph, and tries its
        # readers for NIfTI, DICOM and NumPy on whatever this one refuses.
        self._reader = PILReader(converter=ToChannels(channels), reverse_indexing=False)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Prepare the images of one item."""
        prepared = dict(data)
        for key in self.key_iterator(prepared):
            path = str(data[key])
            pixels = torch.from_numpy(self._prepare(path))
            prepared[key] = MetaTensor(pixels, meta={"filename_or_obj": path})
        return prepared

    def _prepare(self, path: str) -> npt.NDArray[np.uint8]:
        square = self._crop(self._read(path), path)
        if len(square) != self.image_size:
            size = (self.image_size, self.image_size)
            square = np.asarray(Image.fromarray(square).resize(size, Image.Resampling.LANCZOS))
        return np.array(np.moveaxis(np.atleast_3d(square), -1, 0), order="C")  # a copy, for what was read is read-only

    def _read(self, path: str) -> npt.NDArray[np.uint8]:
        """The whole image, (height, width) or (height, width, 3)."""
        load = self.load or (read_cifar_image if is_cifar_row(path) else None)
        try:
            if load is not None:
                return np.asarray(_convert(load(path), self.channels, path))
            pixels: npt.NDArray[np.uint8] = self._reader.get_data(self._reader.read(path))[0]
            return pixels
        except DataError:
            raise
        except Exception as error:  # a damaged file can raise whatever the reader meets
            if is_absent(path):
                raise DataError(f"{path} is not there: {how_to_get(path)}.") from error
            if isinstance(error, FileNotFoundError):
                raise DataError(f"{path} is not there; put it back, or take it out of the data list.") from error
            raise DataError(f"{path} cannot be read as an image ({_reason(error)}); replace or remove it.") from error

    def _crop(self, pixels: npt.NDArray[np.uint8], path: str) -> npt.NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        size = self.crop_size or min(height, width)
        if size > min(height, width):
            raise DataError(
                f"{path} has {width}×{height} pixels, fewer than the crop_size {size}; set crop_size to null for the "
                f"largest square of each image, or to at most {min(height, width)}."
            )
        top, left = height // 2 - size // 2, width // 2 - size // 2
        return pixels[top : top + size, left : left + size]


def _convert(image: Image.Image, channels: int, name: str) -> Image.Image:
    with image:
        with _refusing_truncated_files():
            image.load()
        upright = UPRIGHT.get(_orientation(image))
        converted = _to_mode(image, "L" if channels == 1 else "RGB", name)
    return converted if upright is None else converted.transpose(upright)


@contextmanager
def _refusing_truncated_files() -> Iterator[None]:
    """No grey in place of the pixels that a file lacks, whatever another library has asked of Pillow."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF can raise whatever its parser meets; the image itself was read
        return 1


def _to_mode(image: Image.Image, mode: str, name: str) -> Image.Image:
    """The image, loaded, in mode "L" or "RGB"."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in FORMATS_OF_16_BITS):
        image = _from_16_bits(image, name)
    elif image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits or with a sign"
        raise _refused(name, image, kind)
    elif image.has_transparency_data:
        image = _on_white(image)
    elif mode == "L" and image.mode not in ("1", "L"):
        image = image.convert("RGB")  # from which the luma of every kind of colour is taken alike
    return image if image.mode == mode else image.convert(mode)


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    tags = getattr(image, "tag_v2", None)
    if tags is not None and (tags.get(BITSPERSAMPLE), tags.get(PHOTOMETRIC_INTERPRETATION)) != ((16,), BLACK_IS_ZERO):
        raise _refused(name, image, "greyscale that does not run from black at 0 to white at 65535")
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values + 128) // 257).astype(np.uint8)  # v / 257 is never half-way between two integers
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _refused(name: str, image: Image.Image, kind: str) -> DataError:
    return DataError(
        f"{name} holds {kind} (Pillow's mode {image.mode}), whose black and white are not known; convert it to 8 or "
        "16 bits, for example to PNG, with the range that you want."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is in no format that Pillow knows"
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
