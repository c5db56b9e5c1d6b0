import pickle
import pickletools

import numpy as np
import pytest

from monai_blurvae.errors import DataError
from monai_blurvae.transforms import prepare_image
from monai_blurvae.transforms.prepare_image import is_cifar_row, read_cifar_batch, read_cifar_image
from tests.cifar import python2_batch, random_rows


def save(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    return path


def test_the_files_here_are_pickles_of_protocol_2_that_numpy_reads_and_look_like_the_distributed_ones(tmp_path):
    rows = random_rows(300)
    content = python2_batch(rows)
    # The bytes with which the distributed data_batch_1 begins.
    assert content.startswith(
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05"
    )
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert {"PROTO", "SHORT_BINSTRING", "BINSTRING", "LONG_BINPUT", "GLOBAL"} <= opcodes
    with save(tmp_path, content).open("rb") as handle:
        batch = pickle.load(handle, encoding="bytes")
    assert np.array_equal(batch[b"data"], rows)
    assert batch[b"labels"][:12] == [*range(10), 0, 1]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_is_read_as_the_pickle_module_reads_it(tmp_path, module, order):
    rows = np.asarray(random_rows(300), order=order)
    content = python2_batch(rows, module)
    images = read_cifar_batch(save(tmp_path, content))
    assert images.shape == (300, 3, 32, 32)
    assert images.dtype == np.uint8
    assert np.array_equal(images.reshape(300, -1), pickle.loads(content, encoding="bytes")[b"data"])


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("key", ["data", b"data"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_batch_that_python_3_pickled(tmp_path, protocol, order, key, module):
    rows = np.asarray(random_rows(5), order=order)
    batch = {key: rows, "labels": [np.int64(1)] * 5, "note": b"", "numbers": np.arange(5), "more": bytearray(b"ab")}
    content = pickle.dumps(batch, protocol=protocol)
    if protocol < 4:  # later protocols say the length of each name
        content = content.replace(b"cnumpy._core.", b"c%s." % module.encode())
    assert np.array_equal(pickle.loads(content)[key], rows)
    assert np.array_equal(read_cifar_batch(save(tmp_path, content)).reshape(5, -1), rows)


@pytest.mark.parametrize("arguments", [b"I1000000000000\n", b"S'a'\nS'zlib'\n", b"(I1\nlI2\n"])
@pytest.mark.parametrize("name", [b"c_codecs\nencode\n", b"c__builtin__\nbytes\n", b"cbuiltins\nbytearray\n"])
def test_bytes_are_made_of_what_is_in_the_file_alone(tmp_path, name, arguments):
    with pytest.raises(DataError, match="bytes in another form"):
        read_cifar_batch(save(tmp_path, batch_with(name + b"(" + arguments + b"tR")))


def test_an_array_of_protocol_5_in_another_order(tmp_path):
    content = pickle.dumps({"data": random_rows(2)}, protocol=5)
    assert content.count(b"\x8c\x01C") == 1
    with pytest.raises(DataError, match="in the order 'K'"):
        read_cifar_batch(save(tmp_path, content.replace(b"\x8c\x01C", b"\x8c\x01K")))


def test_the_images_cannot_be_changed_in_the_cache(tmp_path):
    images = read_cifar_batch(save(tmp_path, python2_batch(random_rows(2))))
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def batch_with(globals_):
    """A batch that is whole but for one more entry, which does something."""
    content = python2_batch(random_rows(2))
    return content[:-2] + b"U\x04evil" + globals_ + b"u."


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (b"cos\nsystem\n(S'touch {}'\ntR", "os.system"),
        (b"cposix\nsystem\n(S'touch {}'\ntR", "posix.system"),
        (b"cos\nmkdir\n(S'{}'\ntR", "os.mkdir"),
        (b'c__builtin__\neval\n(S\'open("{}", "w")\'\ntR', "__builtin__.eval"),
        (b"(S'{}'\nicollections\nOrderedDict\n", "collections.OrderedDict"),
        (b"cnumpy\nload\n(S'{}'\ntR", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'{}'\ntR", "numpy.core.multiarray.fromfile"),
    ],
)
def test_a_pickle_that_asks_for_more_is_refused_by_name_and_nothing_runs(tmp_path, call, name):
    victim = tmp_path / "ran"
    content = batch_with(call.replace(b"{}", str(victim).encode()))
    with pytest.raises(DataError, match=rf"asks for {name}, which no array needs"):
        read_cifar_batch(save(tmp_path, content))
    assert not victim.exists()


def test_the_malicious_pickle_here_would_run(tmp_path):
    victim = tmp_path / "ran"
    pickle.loads(batch_with(b"cos\nmkdir\n(S'%s'\ntR" % str(victim).encode()), encoding="latin1")
    assert victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.9999])
def test_a_truncated_batch(tmp_path, share):
    content = python2_batch(random_rows(300))
    cut = int(share * len(content))
    with pytest.raises(DataError, match=f"data_batch_1 is no batch .* cut off after {cut} bytes.*unpack"):
        read_cifar_batch(save(tmp_path, content[:cut]))


def test_every_cut_is_an_error(tmp_path):
    content = python2_batch(random_rows(1))
    for cut in [*range(300), *range(len(content) - 100, len(content))]:
        with pytest.raises(DataError, match="is no batch"):
            read_cifar_batch(save(tmp_path, content[:cut]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "is no batch"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"fine_labels": [1]}), "no array 'data'"),
        (pickle.dumps({"data": [[1, 2]]}), "no array 'data'"),
        (python2_batch(random_rows(3), key=b"tada"), "no array 'data'"),
        (python2_batch(random_rows(3)[:, :784]), r"shape \(3, 784\), where \(N, 3072\)"),
        (python2_batch(random_rows(3).reshape(-1)), r"shape \(9216,\)"),
        (python2_batch(random_rows(3)[:0]), r"shape \(0, 3072\)"),
        (python2_batch(random_rows(2).astype(np.int64), code=b"i8"), "of the type i8, where u1"),
        (python2_batch(random_rows(2).astype(np.int8), code=b"i1"), "of the type i1"),
        (python2_batch(random_rows(2).astype("<u2")), "cannot reshape"),  # twice the bytes that the shape needs
    ],
)
def test_what_is_no_batch(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_cifar_batch(save(tmp_path, content))


def test_a_missing_batch_file(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_9 cannot be read \(No such file"):
        read_cifar_batch(tmp_path / "data_batch_9")


def test_an_image_is_one_row_red_green_and_blue_one_after_the_other(tmp_path):
    rows = random_rows(20)
    path = save(tmp_path, python2_batch(rows))
    image = read_cifar_image(f"{path}#17")
    assert (image.mode, image.size) == ("RGB", (32, 32))
    for x, y in [(0, 0), (31, 0), (0, 31), (5, 9)]:
        assert image.getpixel((x, y)) == tuple(rows[17, channel * 1024 + y * 32 + x] for channel in range(3))


def test_a_batch_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(prepare_image, "read_cifar_batch", lambda path: (reads.append(path), read_cifar_batch(path))[1])
    rows = random_rows(3)
    path = save(tmp_path, python2_batch(rows))
    for row in (0, 1, 2, 0):
        read_cifar_image(f"{path}#{row}")
    assert len(reads) == 1
    save(tmp_path, python2_batch(255 - random_rows(4)))
    assert read_cifar_image(f"{path}#0").getpixel((0, 0))[0] == 255 - rows[0, 0]
    assert len(reads) == 2


@pytest.mark.parametrize(
    "name", ["data_batch_1", "data_batch_1#", "data_batch_1#x", "data_batch_1#-1", "#3", "a#1.png"]
)
def test_what_names_no_row(tmp_path, name):
    assert not is_cifar_row(name)
    with pytest.raises(DataError, match="does not name a row"):
        read_cifar_image(name)


def test_a_row_that_is_not_there(tmp_path):
    path = save(tmp_path, python2_batch(random_rows(3)))
    assert read_cifar_image(f"{path}#2").size == (32, 32)
    with pytest.raises(DataError, match=r"data_batch_1#3 names a row that is not there: .* the rows 0 to 2"):
        read_cifar_image(f"{path}#3")


def test_a_row_of_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_cifar_image(f"{tmp_path / 'data_batch_1'}#0")
