import pytest
import torch
from monai.data import FolderLayout, MetaTensor
from monai.transforms import SaveImage

from monai_blurvae.data import OutputNames


def names(paths, root="/data", parent=False):
    formatter = OutputNames([{"image": path} for path in paths])
    layout = FolderLayout("/out", "r", ".png", parent=parent, data_root_dir=root)
    return [layout.filename(**formatter({"filename_or_obj": path})) for path in paths]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/data/x.png", "/data/y.png"], ["/out/x_r.png", "/out/y_r.png"]),
        (["/data/a/x.png", "/data/b/x.png"], ["/out/a/x_r.png", "/out/b/x_r.png"]),
        (["/data/a/x.png", "/data/a/x.jpg"], ["/out/a/x_png_r.png", "/out/a/x_jpg_r.png"]),
        (["/data/x.nii", "/data/x.nii.gz"], ["/out/x_nii_r.png", "/out/x_nii_gz_r.png"]),
        (["/data/s.1", "/data/s.2", "/data/s"], ["/out/s_1_r.png", "/out/s_2_r.png", "/out/s__r.png"]),
        (
            ["/data/x.png", "/data/x.jpg", "/data/x_png.gif"],
            ["/out/x_png__r.png", "/out/x_jpg_r.png", "/out/x_png_r.png"],
        ),
        (["/data/data_batch_1#0", "/data/data_batch_1#1"], ["/out/data_batch_1#0_r.png", "/out/data_batch_1#1_r.png"]),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_every_input_has_an_output_of_its_own(paths, expected, order):
    assert names(paths[::order]) == expected[::order]


def test_monais_saver_takes_it(tmp_path):
    formatter = OutputNames([{"image": "/data/x.png"}, {"image": "/data/x.jpg"}])
    save = SaveImage(
        tmp_path,
        "r",
        ".png",
        writer="PILWriter",
        separate_folder=False,
        output_name_formatter=formatter,
        print_log=False,
    )
    for suffix in ("png", "jpg"):
        save(MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": f"/data/x.{suffix}"}))
    save(torch.zeros(1, 4, 4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2_r.png", "x_jpg_r.png", "x_png_r.png"]
