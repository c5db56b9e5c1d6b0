"""CIFAR-10's batches in the form in which they are distributed."""

import struct

import numpy as np

from monai_blurvae.data.image_list import TEST_BATCH, TRAINING_BATCHES


class Python2Pickler:
    """Writes a batch opcode by opcode as Python 2's cPickle does at protocol 2, memo included."""

    def __init__(self):
        self.out = bytearray(b"\x80\x02")
        self.memo = 0

    def put(self):
        self.memo += 1  # cPickle counts from 1
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)

    def text(self, value):
        head = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<I", len(value))
        self.out += head + value
        self.put()

    def number(self, value):
        if value < 0 or value >= 1 << 16:
            self.out += b"J" + struct.pack("<i", value)
        else:
            self.out += b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    def name(self, module, name):
        self.out += f"c{module}\n{name}\n".encode()
        self.put()

    def close(self, opcode):
        self.out += opcode
        self.put()

    def list_of(self, write, values):
        self.close(b"]")
        self.out += b"("
        for value in values:
            write(value)
        self.out += b"e"

    def array(self, array, module, code):
        self.name(module, "_reconstruct")
        self.name("numpy", "ndarray")
        self.number(0)
        self.close(b"\x85")
        self.text(b"b")
        self.close(b"\x87")
        self.close(b"R")
        self.out += b"("
        self.number(1)
        for n in array.shape:
            self.number(n)
        self.close({1: b"\x85", 2: b"\x86", 3: b"\x87"}[array.ndim])
        self.name("numpy", "dtype")
        self.text(code)
        self.number(0)
        self.number(1)
        self.close(b"\x87")
        self.close(b"R")
        self.out += b"("
        self.number(3)
        self.text(b"|" if array.dtype.itemsize == 1 else b"<")
        self.out += b"NNN"
        for n in (-1, -1, 0):
            self.number(n)
        self.close(b"t")
        self.out += b"b"
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        self.out += b"\x88" if fortran else b"\x89"
        self.text(array.tobytes(order="A"))
        self.close(b"t")
        self.out += b"b"


def python2_batch(rows, module="numpy.core.multiarray", code=b"u1", key=b"data", label=b"training batch 1 of 5"):
    """A batch like the distributed ones: batch_label, labels, data and filenames."""
    p = Python2Pickler()
    p.close(b"}")
    p.out += b"("
    p.text(b"batch_label")
    p.text(label)
    p.text(b"labels")
    p.list_of(p.number, [i % 10 for i in range(len(rows))])
    p.text(key)
    p.array(rows, module, code)
    p.text(b"filenames")
    p.list_of(p.text, [b"leptodactylus_pentadactylus_s_%06d.png" % i for i in range(len(rows))])
    return bytes(p.out + b"u.")


def random_rows(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def make_cifar(folder, rows=4):
    """The six batches in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*TRAINING_BATCHES, TEST_BATCH)):
        (folder / name).write_bytes(python2_batch(random_rows(rows, seed)))
    return folder
