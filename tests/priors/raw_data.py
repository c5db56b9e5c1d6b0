"""Small files as fastMRI and ISMRMRD write them."""

import numpy as np

XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{rows}</x><y>{lines}</y><z>{depth}</z></matrixSize>
<fieldOfView_mm><x>{fov}</x><y>{fov}</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>96</x><y>80</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{lines}</maximum><center>{centre}</center>
</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"""

COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
)
HEAD = np.dtype(
    [
        ("flags", "<u8"),
        *((name, "<u2") for name in ("number_of_samples", "active_channels", "discard_pre", "discard_post")),
        ("center_sample", "<u2"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir")),
        ("idx", [(name, "<u2") for name in COUNTERS]),
    ]
)


def header(rows=96, lines=40, x=48, y=40, centre=20, depth=1, trajectory="cartesian"):
    return XML.format(
        rows=rows, lines=lines, x=x, y=y, centre=centre, depth=depth, trajectory=trajectory, fov=192
    ).encode()


def write_fastmri(path, kspace, xml=None, mask=None):
    import h5py

    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if xml is not None:
            file["ismrmrd_header"] = xml
        if mask is not None:
            file["mask"] = mask
    return path


def line(samples, number, place=0, flags=0, average=0, centre=None, position=(0, 0, 0), **counters):
    """One acquisition: samples ``(coils, readout)``."""
    head = np.zeros((), HEAD)
    head["flags"] = flags
    head["active_channels"], head["number_of_samples"] = samples.shape
    head["center_sample"] = samples.shape[1] // 2 if centre is None else centre
    head["position"] = position
    head["read_dir"], head["phase_dir"], head["slice_dir"] = (0, 1, 0), (1, 0, 0), (0, 0, 1)
    head["idx"]["kspace_encode_step_1"] = number
    head["idx"]["slice"] = place
    head["idx"]["average"] = average
    for name, value in counters.items():
        head["idx"][name] = value
    return head, np.ascontiguousarray(samples, np.complex64).view(np.float32).ravel()


def write_ismrmrd(path, acquisitions, xml=None):
    import h5py

    kind = np.dtype([("head", HEAD), ("data", h5py.vlen_dtype(np.dtype("<f4")))])
    data = np.empty(len(acquisitions), kind)
    for i, (head, samples) in enumerate(acquisitions):
        data[i]["head"], data[i]["data"] = head, samples
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=data)
        file.create_dataset(
            "dataset/xml", data=np.array([header() if xml is None else xml], object), dtype=h5py.string_dtype()
        )
    return path
