import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, PILReader
from monai.transforms import CenterSpatialCrop, Compose, LoadImage, SaveImaged, ScaleIntensityRanged, Transposed
from PIL import Image, ImageCms, ImageFile
from skimage.color import rgb2gray
from skimage.io import imsave

from monai_blurvae.data.facts import describe_transform
from monai_blurvae.errors import DataError
from monai_blurvae.transforms.prepare_image import PrepareImaged, ToChannels
from tests.cifar import random_rows, save_batch

RGB = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
GREY = RGB[..., 0]
ALPHA = RGB[..., 1]


def transformed(path, *arguments, **options):
    """As (channels, rows, columns)."""
    return PrepareImaged("image", *arguments, **options)({"image": path})["image"].numpy()


def prepare(path, channels=3, size=6):
    """As (rows, columns, channels)."""
    return transformed(path, size, channels=channels).transpose(1, 2, 0)


def saved(image, path, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


def on_white(colour, alpha):
    alpha = alpha[..., None] / 255
    return colour * alpha + 255 * (1 - alpha)


def luma(rgb):
    return rgb @ np.array([0.299, 0.587, 0.114])


def quadrants(mode="RGB"):
    """96 × 64 pixels of four flat colours, which JPEG keeps to within a few levels inside of each."""
    colours = np.array([[[200, 30, 30], [30, 180, 60]], [[20, 60, 220], [240, 230, 90]]], np.uint8)
    return colours, Image.fromarray(colours.repeat(48, 0).repeat(32, 1)).convert(mode)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def test_colour_and_grey_png(tmp_path):
    colour, grey = saved(RGB, tmp_path / "rgb.png"), saved(GREY, tmp_path / "l.png")
    assert transformed(colour, 6).dtype == np.uint8
    np.testing.assert_array_equal(prepare(colour), RGB)
    np.testing.assert_array_equal(prepare(grey), np.repeat(GREY[..., None], 3, -1))
    np.testing.assert_array_equal(prepare(grey, channels=1)[..., 0], GREY)
    np.testing.assert_allclose(prepare(colour, channels=1)[..., 0], luma(RGB), atol=0.51)
    assert transformed(colour, 6, channels=1).shape == (1, 6, 6)


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(tmp_path, orientation, suffix):
    path = saved(RGB, tmp_path / f"a.{suffix}", exif=exif(orientation))
    np.testing.assert_array_equal(prepare(path), UPRIGHT[orientation](RGB))


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_orientation_of_a_jpeg_that_is_not_square(tmp_path, orientation):
    colours, image = quadrants()
    path = saved(image, tmp_path / "a.jpg", exif=exif(orientation), quality=95)
    found = prepare(path, size=64)
    assert Image.open(path).size == (64, 96)
    np.testing.assert_allclose(found[16::32, 16::32], UPRIGHT[orientation](colours), atol=4)


def test_palette_with_orientation_and_transparency(tmp_path):
    image = Image.fromarray(RGB).quantize(8)
    colours = np.asarray(image.convert("RGB"))
    clear = np.asarray(image) == 3
    path = saved(image, tmp_path / "a.png", transparency=3, exif=exif(6))
    np.testing.assert_array_equal(prepare(path), np.rot90(np.where(clear[..., None], 255, colours), -1))


SHORT, TEXT = (struct.pack(">HH", 0x0112, kind) for kind in (3, 2))
TEXT_ORIENTATION = exif(6).tobytes().replace(SHORT, TEXT)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "damage",
    [b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense", TEXT_ORIENTATION, exif(9)],
    ids=["offset", "nonsense", "text", "unknown"],
)
def test_damaged_exif_counts_as_none(tmp_path, damage):
    colours, image = quadrants()
    path = saved(image, tmp_path / "a.jpg", exif=damage, quality=95)
    np.testing.assert_allclose(prepare(path, size=64)[16::32, 16::32], colours, atol=4)


def test_palettes(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (4, 3), np.uint8)
    alphas = np.array([255, 0, 100, 30], np.uint8)
    indices = np.random.default_rng(2).integers(0, 4, (6, 6)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    plain = saved(image, tmp_path / "plain.png")
    one = saved(image, tmp_path / "one.png", transparency=2)
    each = saved(image, tmp_path / "each.png", transparency=alphas.tobytes())
    np.testing.assert_array_equal(prepare(plain), colours[indices])
    np.testing.assert_array_equal(prepare(one), np.where((indices == 2)[..., None], 255, colours[indices]))
    np.testing.assert_allclose(prepare(each), on_white(colours[indices], alphas[indices]), atol=1.01)
    np.testing.assert_allclose(prepare(plain, 1)[..., 0], luma(colours[indices]), atol=0.51)


def test_alpha_is_composited_on_white(tmp_path):
    rgba = saved(np.dstack([RGB, ALPHA]), tmp_path / "rgba.png")
    la = saved(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), tmp_path / "la.png")
    np.testing.assert_allclose(prepare(rgba), on_white(RGB, ALPHA), atol=1.01)
    np.testing.assert_allclose(prepare(rgba, 1)[..., 0], luma(on_white(RGB, ALPHA)), atol=1.51)
    np.testing.assert_allclose(prepare(la, 1), on_white(GREY[..., None], ALPHA), atol=1.01)
    np.testing.assert_allclose(prepare(la), on_white(GREY[..., None].repeat(3, -1), ALPHA), atol=1.01)


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa"])
def test_rarer_modes_with_alpha(mode):
    plain = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA"}[mode]
    alpha = np.where(ALPHA > 128, 255, 0).astype(np.uint8)  # premultiplied colours are then exact
    colour = GREY[..., None] if plain == "LA" else RGB
    if mode == "PA":
        image = Image.merge("PA", [Image.fromarray(RGB).quantize(36), Image.fromarray(alpha)])
        image.putpalette(Image.fromarray(RGB).quantize(36).getpalette())
        colour = np.asarray(Image.fromarray(RGB).quantize(36).convert("RGB"))
    else:
        image = Image.fromarray(np.dstack([colour, alpha])).convert(mode)
    found = np.asarray(ToChannels(3)(image))
    np.testing.assert_array_equal(found, np.broadcast_to(on_white(colour, alpha), found.shape))


def test_one_transparent_value_of_grey_and_colour(tmp_path):
    grey = saved(GREY, tmp_path / "l.png", transparency=int(GREY[1, 2]))
    colour = saved(RGB, tmp_path / "rgb.png", transparency=tuple(int(v) for v in RGB[3, 4]))
    np.testing.assert_array_equal(prepare(grey, 1)[..., 0], np.where(GREY[1, 2] == GREY, 255, GREY))
    clear = (RGB[3, 4] == RGB).all(-1, keepdims=True)
    np.testing.assert_array_equal(prepare(colour), np.where(clear, 255, RGB))


SIXTEEN = np.random.default_rng(3).integers(0, 65536, (6, 6)).astype(np.uint16)
SIXTEEN[0, :4] = 0, 65535, 128, 129


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big_endian.tif", "a.pgm"])
def test_16_bit_greyscale_keeps_its_range(tmp_path, name):
    path = tmp_path / name
    if name == "big_endian.tif":
        imsave(path, SIXTEEN, plugin="tifffile", byteorder=">", photometric="minisblack", check_contrast=False)
        assert Image.open(path).mode == "I;16B"
    elif name == "a.pgm":
        path.write_bytes(b"P5 6 6 65535\n" + SIXTEEN.astype(">u2").tobytes())
    else:
        saved(SIXTEEN, path)
    expected = np.rint(SIXTEEN.astype(float) / 257)
    np.testing.assert_array_equal(prepare(path, 1)[..., 0], expected)
    np.testing.assert_array_equal(prepare(path), np.repeat(expected[..., None], 3, -1))


def test_16_bit_greyscale_with_a_transparent_value_and_orientation(tmp_path):
    chunk = struct.pack(">H", SIXTEEN[2, 2])
    content = io.BytesIO()
    Image.fromarray(SIXTEEN).save(content, "png", exif=exif(8))
    at = content.getvalue().index(b"IDAT") - 4
    path = tmp_path / "a.png"
    path.write_bytes(content.getvalue()[:at] + png_chunk(b"tRNS", chunk) + content.getvalue()[at:])
    expected = np.where(SIXTEEN[2, 2] == SIXTEEN, 255, np.rint(SIXTEEN / 257))
    np.testing.assert_array_equal(prepare(path, 1)[..., 0], np.rot90(expected))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_one_bit(tmp_path):
    bits = GREY > 128
    path = saved(Image.fromarray(bits), tmp_path / "a.png")
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(prepare(path, 1)[..., 0], 255 * bits)
    np.testing.assert_array_equal(prepare(path)[..., 2], 255 * bits)


def cmyk():
    """Four flat colours, as (2, 2, 4), and their RGB without colour management."""
    inks = np.array([[[200, 10, 40, 0], [0, 180, 200, 60]], [[255, 0, 0, 0], [30, 40, 50, 128]]], np.uint8)
    return inks, (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255


@pytest.mark.parametrize("name", ["a.tif", "adobe.jpg"])
def test_cmyk(tmp_path, name):
    inks, rgb = cmyk()
    image = Image.fromarray(inks.repeat(32, 0).repeat(32, 1), mode="CMYK")
    path = saved(image, tmp_path / name, **({"quality": 95} if name == "adobe.jpg" else {}))
    with Image.open(path) as opened:
        assert opened.mode == "CMYK"
        assert name != "adobe.jpg" or "adobe" in opened.info
    np.testing.assert_allclose(prepare(path, size=64)[16::32, 16::32], rgb, atol=6)


def test_lab(tmp_path):
    colours, image = quadrants()
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    path = saved(ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), tmp_path / "a.tif")
    assert Image.open(path).mode == "LAB"
    np.testing.assert_allclose(prepare(path, size=64)[16::32, 16::32], colours, atol=4)
    grey = 255 * rgb2gray(colours, channel_axis=-1)  # of BT.709, so roughly
    np.testing.assert_allclose(prepare(path, 1, size=64)[16::32, 16::32, 0], grey, atol=25)


def test_ycbcr_and_hsv():
    colours, image = quadrants("YCbCr")
    np.testing.assert_allclose(np.asarray(ToChannels()(image))[24::48, 16::32], colours, atol=2)
    image = Image.merge("HSV", [Image.new("L", (2, 2), v) for v in (85, 255, 200)])
    np.testing.assert_allclose(np.asarray(ToChannels()(image))[0, 0], [0, 200, 0], atol=1)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue", "lime")]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(path).n_frames == 3
    np.testing.assert_array_equal(prepare(path), np.broadcast_to([255, 0, 0], (6, 6, 3)))


def test_first_page_of_a_tiff(tmp_path):
    path = saved(RGB, tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(255 - RGB)], exif=exif(6))
    np.testing.assert_array_equal(prepare(path), np.rot90(RGB, -1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["float", "int32", "int16", "white_is_zero"])
def test_unknown_ranges_are_refused(tmp_path, kind, channels):
    path = tmp_path / "scan.tif"
    if kind == "white_is_zero":
        imsave(path, SIXTEEN, plugin="tifffile", photometric="miniswhite", check_contrast=False)
    else:
        dtype = {"float": np.float32, "int32": np.int32, "int16": np.int16}[kind]
        imsave(path, GREY.astype(dtype), plugin="tifffile", photometric="minisblack", check_contrast=False)
    mode = {"float": "F", "white_is_zero": "I;16"}.get(kind, "I")
    with pytest.raises(DataError, match=rf"scan\.tif holds .*mode {mode}\).* convert it to 8 or 16 bits") as caught:
        transformed(path, 6, channels=channels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(9, 14), (10, 13), (8, 8)])
@pytest.mark.parametrize("crop", [4, 5, 8, None])
def test_crop_is_that_of_monai(tmp_path, shape, crop):
    array = np.arange(3 * shape[0] * shape[1], dtype=np.uint8).reshape(*shape, 3)
    size = crop or min(shape)
    expected = np.asarray(CenterSpatialCrop((size, size))(array.transpose(2, 0, 1)))
    found = transformed(saved(array, tmp_path / "a.png"), size, crop)
    np.testing.assert_array_equal(found, expected)


def test_larger_margin_is_below_and_right_for_an_even_crop(tmp_path):
    array = np.arange(25, dtype=np.uint8).reshape(5, 5)
    path = saved(array, tmp_path / "a.png")
    np.testing.assert_array_equal(transformed(path, 2, 2, channels=1)[0], array[1:3, 1:3])
    path = saved(array[:4, :4], tmp_path / "b.png")
    np.testing.assert_array_equal(transformed(path, 3, 3, channels=1)[0], array[1:4, 1:4])


def lanczos(size_in, size_out):
    """Dense matrix of Lanczos interpolation with three lobes, widened by the reduction."""
    scale = size_in / size_out
    centres = (np.arange(size_out)[:, None] + 0.5) * scale - 0.5
    x = (np.arange(size_in)[None] - centres) / max(scale, 1)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [16, 48])
def test_resizing_is_antialiased_lanczos(tmp_path, size):
    array = np.random.default_rng(4).integers(0, 256, (40, 40, 3), np.uint8)
    matrix = lanczos(40, size)
    rows = np.clip(np.rint(np.einsum("ij,hjc->hic", matrix, array)), 0, 255)  # Pillow rounds between its two passes
    expected = np.clip(np.einsum("ij,jwc->iwc", matrix, rows), 0, 255)
    found = prepare(saved(array, tmp_path / "a.png"), size=size)
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_a_stripe_pattern_above_the_new_nyquist_becomes_grey(tmp_path):
    array = np.tile(np.array([0, 255], np.uint8), (64, 32))
    found = transformed(saved(array, tmp_path / "a.png"), 20, channels=1)[0]
    np.testing.assert_allclose(found[:, 2:-2], 127.5, atol=3)


def test_only_the_crop_counts(tmp_path):
    """The filter sees no pixel outside of the crop."""
    inside = np.random.default_rng(5).integers(0, 256, (20, 20), np.uint8)
    found = [
        transformed(saved(np.pad(inside, 5, constant_values=value), tmp_path / "a.png"), 10, 20, 1)
        for value in (0, 255)
    ]
    np.testing.assert_array_equal(*found)


def test_monai_load_image_with_the_same_converter_reads_the_same(tmp_path):
    reader = PILReader(converter=ToChannels(3), reverse_indexing=False)
    load = LoadImage(reader=reader, image_only=True, ensure_channel_first=True)
    for suffix in ("png", "gif", "tif"):
        path = saved(RGB, tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(np.asarray(load(path)), transformed(path, 6))


def test_mixed_sizes_give_one_shape(tmp_path):
    for width, height in ((8, 30), (31, 9), (3, 3)):
        path = saved(Image.new("RGB", (width, height), "teal"), tmp_path / "a.png")
        np.testing.assert_array_equal(transformed(path, 8), np.broadcast_to([[[0]], [[128]], [[128]]], (3, 8, 8)))


def test_too_small_for_the_crop(tmp_path):
    path = saved(Image.new("L", (50, 40)), tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png has 50×40 pixels, .*crop_size 64; set crop_size to null .* 40\."):
        transformed(path, 32, 64)


def jpeg():
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(6).integers(0, 256, (64, 64, 3), np.uint8)).save(content, "jpeg")
    return content.getvalue()


BAD = {
    "truncated": (lambda: jpeg()[: len(jpeg()) // 2], "truncated"),
    "text": (lambda: b"Dear user, this is no image.\n" * 50, "no format that Pillow knows"),
    "empty": (lambda: b"", "no format that Pillow knows"),
    "header_only": (lambda: jpeg()[:300], ""),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("lenient", [False, True])
def test_damaged_files(tmp_path, monkeypatch, case, lenient):
    content, reason = BAD[case]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # as another library may leave it
    path = tmp_path / "broken.jpg"
    path.write_bytes(content())
    with pytest.raises(DataError, match=rf"broken\.jpg cannot be read as an image \(.*{reason}") as caught:
        transformed(path, 32)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "bmp", "webp"])
def test_truncated_files_of_other_formats(tmp_path, suffix):
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8)
    path = saved(noise, tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"cut\.{suffix} cannot be read as an image"):
        transformed(path, 32)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png is not there"):
        transformed(tmp_path / "gone.png", 8)
    with pytest.raises(DataError, match="cannot be read as an image"):
        transformed(tmp_path, 8)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = saved(Image.new("1", (64, 64)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb\.png cannot be read as an image \(.*decompression bomb"):
        transformed(path, 8)


def load_item(path):
    name, _, number = path.rpartition("#")
    if number == "9":
        raise DataError(f"{path} is past the end of {name}.")
    return Image.fromarray(RGB + np.uint8(int(number)))


def test_a_loader_of_ones_own():
    crop = transformed("batch#1", 4, 4, channels=1, load=load_item)[0]
    np.testing.assert_allclose(crop, luma(RGB + np.uint8(1))[1:5, 1:5], atol=0.51)
    with pytest.raises(DataError, match=r"batch#9 is past the end of batch\."):
        transformed("batch#9", 4, load=load_item)
    with pytest.raises(DataError, match="nonsense cannot be read as an image"):
        transformed("nonsense", 4, load=load_item)


def test_a_row_of_a_cifar_batch_is_known_by_its_path(tmp_path):
    rows = random_rows(3)
    save_batch(tmp_path / "data_batch_1", rows)
    path = f"{tmp_path / 'data_batch_1'}#2"
    np.testing.assert_array_equal(transformed(path, 32), rows[2].reshape(3, 32, 32))
    expected = luma(rows[2].reshape(3, 32, 32).transpose(1, 2, 0))
    np.testing.assert_allclose(transformed(path, 32, channels=1)[0], expected, atol=0.51)
    with pytest.raises(DataError, match="data_batch_1#3 names a row that is not there"):
        transformed(f"{tmp_path / 'data_batch_1'}#3", 32)


def test_a_file_with_the_mark_of_a_row_in_its_name_is_a_file(tmp_path):
    np.testing.assert_array_equal(transformed(saved(RGB, tmp_path / "a#1.png"), 6), RGB.transpose(2, 0, 1))


def test_an_item_of_a_dictionary(tmp_path):
    paths = {"image": saved(RGB, tmp_path / "a.png"), "other": str(saved(255 - RGB, tmp_path / "b.png"))}
    item = {**paths, "subject": "a"}
    found = PrepareImaged(["image", "other"], 6)(item)
    assert item == {**paths, "subject": "a"}
    assert found["subject"] == "a"
    for key in paths:
        assert isinstance(found[key], MetaTensor)
        assert (found[key].dtype, found[key].meta["filename_or_obj"]) == (torch.uint8, str(paths[key]))
    np.testing.assert_array_equal(found["other"], 255 - found["image"])


def test_the_prepared_image_is_scaled_and_saved_by_monai_under_its_name(tmp_path):
    """The way of an inference: to [-1, 1], through a network, and back to a file."""
    (tmp_path / "data").mkdir()
    path = saved(RGB, tmp_path / "data/a.png")
    steps = Compose(
        [
            PrepareImaged("image", 6),
            ScaleIntensityRanged("image", 0, 255, -1, 1),
            Transposed("image", (0, 2, 1)),
            ScaleIntensityRanged("image", -1, 1, 0, 1, clip=True),
            SaveImaged(
                "image",
                output_dir=tmp_path / "out",
                output_postfix="reconstruction",
                output_ext=".png",
                writer="PILWriter",
                output_dtype=np.uint8,
                scale=255,
                separate_folder=False,
                data_root_dir=str(tmp_path / "data"),
                resample=False,
                print_log=False,
            ),
        ]
    )
    scaled = Compose(steps.transforms[:2])({"image": str(path)})["image"]
    np.testing.assert_array_equal(scaled, RGB.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)
    steps({"image": str(path)})
    np.testing.assert_allclose(Image.open(tmp_path / "out/a_reconstruction.png"), RGB, atol=1)


def test_its_description_tells_every_choice():
    choices = [
        PrepareImaged("image", 8),
        PrepareImaged("image", 9),
        PrepareImaged("image", 8, 8),
        PrepareImaged("image", 8, channels=1),
        PrepareImaged("image", 8, load=load_item),
    ]
    descriptions = [json.dumps(describe_transform(choice)) for choice in choices]
    assert len(set(descriptions)) == len(choices)
    assert json.dumps(describe_transform(PrepareImaged("image", 8))) == descriptions[0]


def test_pickles(tmp_path):
    transform = pickle.loads(pickle.dumps(PrepareImaged("image", 6, 6)))
    found = transform({"image": saved(RGB, tmp_path / "a.png")})["image"]
    np.testing.assert_array_equal(found, RGB.transpose(2, 0, 1))


@pytest.mark.parametrize(
    "arguments", [{"image_size": 0}, {"image_size": 8, "crop_size": 0}, {"image_size": 8, "channels": 2}]
)
def test_impossible_arguments(arguments):
    with pytest.raises(ValueError, match="but is"):
        PrepareImaged("image", **arguments)


@pytest.mark.parametrize("kind", ["link", "pointer"])
def test_an_image_that_is_not_downloaded_is_named_with_what_to_run(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "link":
        path.symlink_to(".git/annex/objects/MD5E-s9--0.png")
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    advice = "datalad get" if kind == "link" else "git lfs pull"
    with pytest.raises(DataError, match=rf"a\.png is not there: .*{advice}"):
        PrepareImaged("image", 8)({"image": str(path)})
