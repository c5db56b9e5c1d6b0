import builtins
import io
import json
import logging
import os
from itertools import chain
from pathlib import Path

import PIL.Image
import pytest

from monai_blurvae.data import Datalist, read_datalist
from monai_blurvae.data.datalist import SPLITS
from monai_blurvae.data.image_list import (
    evaluation_image_datalist,
    find_images,
    load_image_datalist,
)
from monai_blurvae.errors import DataError
from tests.cifar import make_cifar

LOG = "monai_blurvae.data.image_list"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder, pattern="**/*"):
    return [entry["image"] for entry in find_images(folder, pattern)]


def load(folder, pattern="**/*", datalist=None, partition_file=None, seed=0):
    return load_image_datalist(folder, pattern, datalist, partition_file, seed).require()


def evaluation(folder, pattern, datalist, split, partition_file=None):
    return evaluation_image_datalist(folder, pattern, datalist, split, partition_file).require()


def names(datalist):
    return [[entry["image"] for entry in getattr(datalist, split)] for split in SPLITS]


def write_partition(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def celeba(folder, images="img_align_celeba", partition="list_eval_partition.txt", suffix=".jpg"):
    """Six images, three to train on, one for validation and two for the test, in a layout of CelebA."""
    touch(folder, *(f"{images}/{i:06d}{suffix}" for i in range(1, 7)))
    write_partition(folder / partition, [f"{i:06d}.jpg {max(0, i - 3) if i < 6 else 2}" for i in range(1, 7)])
    return folder


CELEBA_SPLIT = [["000001", "000002", "000003"], ["000004"], ["000005", "000006"]]


def subjects(datalist):
    return [[entry["subject"] for entry in getattr(datalist, split)] for split in SPLITS]


# Listing


def test_images_are_known_by_their_suffix_in_any_case(tmp_path):
    kept = ["a.jpg", "b.JPEG", "c.Png", "d.bmp", "e.webp", "f.tif", "g.TIFF", "h.gif", "i.ppm", "j.pgm", "k.jp2"]
    touch(tmp_path, *kept, "l.txt", "m.jpg.part", "n.nii.gz", "png", "jpg")
    assert found(tmp_path) == kept


def test_an_entry_has_the_relative_path_and_the_stem_sorted_by_subject(tmp_path):
    touch(tmp_path, "two/b.jpg", "one/c.jpg", "a.png")
    assert find_images(tmp_path, "**/*") == [
        {"image": "a.png", "subject": "a"},
        {"image": "two/b.jpg", "subject": "b"},
        {"image": "one/c.jpg", "subject": "c"},
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x/1.png", "y/2.png"], ["1", "2"]),
        (["x/1.png", "y/1.png", "y/2.png"], ["x/1", "y/1", "y/2"]),
        (["1.jpg", "1.png", "2.png"], ["1.jpg", "1.png", "2.png"]),
        (["a.b.png", "a.c.png"], ["a.b", "a.c"]),
    ],
)
def test_subjects_are_as_short_as_they_can_be(tmp_path, files, expected):
    assert [entry["subject"] for entry in find_images(touch(tmp_path, *files), "**/*")] == expected


TREE = ["1.jpg", "2.JPG", "x/3.jpg", "x/4.png", "x/y/5.jpg", "z[1]/6.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["1.jpg", "2.JPG"]),
        ("*", ["1.jpg", "2.JPG"]),
        ("x/*.jpg", ["x/3.jpg"]),
        ("X/*", ["x/3.jpg", "x/4.png"]),
        ("*/*.jpg", ["x/3.jpg", "z[1]/6.jpg"]),
        ("**/*.jpg", ["1.jpg", "2.JPG", "x/3.jpg", "x/y/5.jpg", "z[1]/6.jpg"]),
        ("**/*", TREE),
        ("**", TREE),
        ("x/**/*", ["x/3.jpg", "x/4.png", "x/y/5.jpg"]),
        ("**/y/*", ["x/y/5.jpg"]),
        ("x/**/y/**/*.jpg", ["x/y/5.jpg"]),
        ("**/**/[35].jpg", ["x/3.jpg", "x/y/5.jpg"]),
        ("?.jpg", ["1.jpg", "2.JPG"]),
        ("./x/*.png", ["x/4.png"]),
    ],
)
def test_patterns(tmp_path, pattern, expected):
    assert found(touch(tmp_path, *TREE), pattern) == expected


@pytest.mark.parametrize(
    "pattern", ["*.jpg", "x/*", "*/*.jpg", "**/*", "**/*.jpg", "x/**/*", "**/y/*", "**/x/**/*.jpg"]
)
def test_patterns_match_what_pathlib_matches(tmp_path, pattern):
    touch(tmp_path, "1.jpg", "x/2.jpg", "x/y/3.jpg", "x/y/x/4.jpg", "y/5.jpg", "y/x/y/6.jpg")
    expected = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern) if path.is_file()}
    assert set(found(tmp_path, pattern)) == expected
    assert expected


def test_what_is_no_image_is_counted_in_one_line_of_the_log(tmp_path, caplog):
    touch(tmp_path, "a.jpg", "notes.txt", ".hidden.jpg", "x/Thumbs.db", ".git/b.jpg")
    with caplog.at_level(logging.INFO, LOG):
        assert found(tmp_path) == ["a.jpg"]
    assert caplog.messages == ["Ignored 3 files, hidden or no images, notes.txt among them."]


def test_files_that_the_pattern_leaves_out_are_not_counted(tmp_path, caplog):
    touch(tmp_path, "a.jpg", "notes.txt")
    with caplog.at_level(logging.INFO, LOG):
        assert found(tmp_path, "*.jpg") == ["a.jpg"]
    assert not caplog.messages


def test_no_file_is_opened(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{i}.jpg" for i in range(5)), "notes.txt")
    (tmp_path / "0.jpg").write_bytes(b"garbage")
    (tmp_path / "1.jpg").chmod(0)

    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (PIL.Image, "open")):
        monkeypatch.setattr(module, name, refuse)
    assert len(find_images(tmp_path, "**/*")) == 5
    monkeypatch.undo()


def test_folders_that_cannot_match_are_not_entered(tmp_path, monkeypatch):
    touch(tmp_path, "images/a.jpg", "other/b.jpg", "images/deep/c.jpg")
    entered = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (entered.append(Path(path).name), scandir(path))[1])
    assert found(tmp_path, "images/*.jpg") == ["images/a.jpg"]
    assert entered == [tmp_path.name, "images"]


def test_links_to_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "store", "x/a.jpg", "b.jpg")
    root = tmp_path / "data"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "store", target_is_directory=True)
    (root / "c.jpg").symlink_to(tmp_path / "store/b.jpg")
    assert found(root) == ["linked/x/a.jpg", "linked/b.jpg", "c.jpg"]
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert found(tmp_path / "link", "*.jpg") == ["c.jpg"]


def test_broken_links_are_refused_or_counted_and_never_dropped_silently(tmp_path, caplog):
    root = touch(tmp_path, ".git/HEAD", "a.jpg", "b.jpg")
    (root / "c.jpg").symlink_to(".git/annex/objects/1/2/MD5E-s9--0.jpg/MD5E-s9--0.jpg")
    message = f"1 of the 3 files that match in dataset_dir {root} are not there, c.jpg the first: .*git annex get"
    with pytest.raises(DataError, match=message):
        find_images(root, "*")
    assert [entry["image"] for entry in find_images(root, "*", skip_absent=True)] == ["a.jpg", "b.jpg"]
    assert "Going on without them, 1 of the 3" in caplog.text
    loaded = load_image_datalist(root, "*.jpg", None, None, 0)
    assert "git annex get" in loaded.problem
    assert "at least 3" in load_image_datalist(root, "*.jpg", None, None, 0, skip_bad_files=True).problem
    assert len(evaluation_image_datalist(root, "*.jpg", skip_bad_files=True).test) == 2


def test_links_that_lead_back_end(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/b").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "b/a").symlink_to(tmp_path / "a", target_is_directory=True)
    assert set(found(tmp_path)) == {"a/1.jpg", "a/b/2.jpg", "b/2.jpg", "b/a/1.jpg"}


def test_unicode_names(tmp_path):
    kept = ["Ärger/größe 1.jpg", "写真/猫.png", "emoji 🐈.gif"]
    touch(tmp_path, *kept)
    assert set(found(tmp_path)) == set(kept)
    assert found(tmp_path, "写真/*") == ["写真/猫.png"]


@pytest.mark.parametrize(
    ("files", "pattern", "message"),
    [
        ([], "**/*", r"holds no image \(0 other files\); give the folder .* \(bmp, gif, jp2"),
        (["a.txt"], "*", r"holds no image \(1 other file, a.txt among them\)"),
        (["x/a.txt", "b.csv", ".c.jpg"], "**/*", r"holds no image \(3 other files, .c.jpg among them\)"),
        (
            ["x/b.jpg", "x/a.jpg", "c.txt"],
            "*.png",
            r"holds 2 images, x/a.jpg among them, but none that matches '\*.png'",
        ),
        (["a.jpg"], "", "holds 1 image, a.jpg among them, but none that matches ''"),
        (["a.jpg"], "a.jpg/*", "but none that matches"),
        (["a.jpg"], "/data/*.jpg", "is absolute; make it relative"),
        (["cifar-10-python.tar.gz"], "*", "but cifar-10-python.tar.gz; unpack it: tar -xzf .*python.tar.gz -C /"),
        (["notes.txt", "Img/img_align_celeba.zip"], "*", "but Img/img_align_celeba.zip; unpack it: unzip /.* -d /"),
    ],
)
def test_folders_without_images(tmp_path, files, pattern, message):
    with pytest.raises(DataError, match=message):
        find_images(touch(tmp_path, *files), pattern)


def test_the_command_to_unpack_works_with_spaces(tmp_path):
    folder = touch(tmp_path / "my data", "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=f"tar -xzf '{folder}/cifar-10-python.tar.gz' -C '{folder}'"):
        load(folder)


@pytest.mark.parametrize("name", ["nowhere", "file.jpg"])
def test_a_folder_that_is_none(tmp_path, name):
    touch(tmp_path, "file.jpg")
    with pytest.raises(DataError, match=f"{name} is not a folder"):
        find_images(tmp_path / name, "*")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed \(Permission denied\)"):
        find_images(tmp_path, "*")


# Splits


def test_without_a_split_of_its_own_a_folder_is_split_at_random_by_seed(tmp_path, caplog):
    touch(tmp_path, *(f"{i}.jpg" for i in range(20)))
    with caplog.at_level(logging.INFO, LOG):
        made = load(tmp_path)
    assert [len(part) for part in names(made)] == [14, 2, 4]
    assert sorted(chain(*names(made))) == sorted(f"{i}.jpg" for i in range(20))
    assert "split at random with seed 0: 14 training, 2 validation, 4 test images." in caplog.messages[-1]
    assert caplog.messages[-1].startswith("No list_eval_partition.txt and no folders train and test in")
    assert made == load(tmp_path)
    assert names(made) != names(load(tmp_path, seed=1))


def test_too_few_images_to_split(tmp_path):
    with pytest.raises(DataError, match="holds 2 images, but training, validation and test need at least 3"):
        load(touch(tmp_path, "a.jpg", "b.jpg"))


@pytest.mark.parametrize(
    ("layout", "dataset_dir", "pattern"),
    [
        ({}, ".", "**/*"),
        ({}, ".", "img_align_celeba/*.jpg"),
        ({}, "img_align_celeba", "*.jpg"),
        ({"images": "Img/img_align_celeba", "partition": "Eval/list_eval_partition.txt"}, ".", "**/*.jpg"),
        ({"images": "Img/img_align_celeba", "partition": "Eval/list_eval_partition.txt"}, "Img", "**/*.jpg"),
        ({"images": "images", "partition": "images/list_eval_partition.txt"}, "images", "*"),
        ({"images": "img_align_celeba/img_align_celeba"}, ".", "**/*"),  # Kaggle's archive
        ({"images": "img_align_celeba/img_align_celeba"}, "img_align_celeba", "**/*"),
        ({"suffix": ".png"}, ".", "**/*"),  # the list of CelebA's PNG files says .jpg
    ],
)
def test_celebas_layouts(tmp_path, caplog, layout, dataset_dir, pattern):
    folder = celeba(tmp_path / "celeba", **layout)
    with caplog.at_level(logging.INFO, LOG):
        made = load(folder / dataset_dir, pattern)
    assert subjects(made) == CELEBA_SPLIT
    assert made.dataset_dir == (folder / dataset_dir).resolve()
    assert all(Path(item["image"]).is_file() for split in SPLITS for item in made.items(split))
    partition = folder / layout.get("partition", "list_eval_partition.txt")
    assert caplog.messages[-1] == f"Split by {partition}: 3 training, 1 validation, 2 test images."


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("names_", [["img_align_celeba/{:06d}.png"], ["faces/{:06d}.jpg"], ["{:06d}.JPG"]])
def test_celeba_without_its_partition_is_warned_of(tmp_path, caplog, names_):
    touch(tmp_path, *(names_[0].format(i) for i in range(1, 7)))
    assert load(tmp_path)
    assert len(warnings(caplog)) == 1
    assert (
        f"{tmp_path} looks like CelebA, but no list_eval_partition.txt or list_eval_partition.csv is in" in caplog.text
    )


@pytest.mark.parametrize("name", ["{:06d}.png", "{}.jpg", "celeba_hq/{}.jpg", "{:012d}.jpg"])
def test_other_images_are_not_taken_for_celeba(tmp_path, caplog, name):
    assert load(touch(tmp_path / "others", *(name.format(i) for i in range(6))))
    assert not warnings(caplog)


def test_a_broken_or_foreign_partition_file_in_the_neighbourhood_is_left_alone(tmp_path, caplog):
    touch(tmp_path / "mine", *(f"{i:06d}.png" for i in range(20)))
    write_partition(tmp_path / "Eval/list_eval_partition.txt", ["a b c 7"])
    write_partition(tmp_path / "list_eval_partition.txt", ["000001.png 0", "x.png 1"])
    with caplog.at_level(logging.INFO, LOG):
        assert [len(part) for part in names(load(tmp_path / "mine"))] == [14, 2, 4]
    assert caplog.text.count("is not used") == 2


def test_the_csv_variant(tmp_path):
    folder = celeba(tmp_path, partition="elsewhere/x.txt")
    rows = ["image_id,partition", *(f"{i:06d}.jpg,{[0, 0, 0, 1, 2, 2][i - 1]}" for i in range(1, 7))]
    write_partition(folder / "list_eval_partition.csv", rows)
    assert subjects(load(folder)) == CELEBA_SPLIT
    write_partition(folder / "list_eval_partition.csv", ['"image_id","partition"', *rows[1:], ""])
    assert subjects(load(folder)) == CELEBA_SPLIT
    write_partition(folder / "list_eval_partition.csv", rows[1:])
    assert subjects(load(folder)) == CELEBA_SPLIT


def test_a_given_partition_file_goes_before_one_that_is_found(tmp_path):
    folder = celeba(tmp_path / "celeba")
    own = write_partition(tmp_path / "mine.txt", [f"{i:06d}.jpg {i % 3}" for i in range(1, 7)])
    made = load(folder, partition_file=own)
    assert subjects(made) == [["000003", "000006"], ["000001", "000004"], ["000002", "000005"]]


def test_blank_lines_windows_line_ends_a_byte_order_mark_and_names_with_spaces(tmp_path):
    touch(tmp_path, "my cat.jpg", "größe.jpg", "c.jpg")
    content = "\ufeffmy cat.jpg 0\r\n\r\ngröße.jpg\t1\r\nc.jpg   2\r\n"
    (tmp_path / "list_eval_partition.txt").write_bytes(content.encode())
    assert names(load(tmp_path)) == [["my cat.jpg"], ["größe.jpg"], ["c.jpg"]]


def test_names_that_are_not_unique_are_matched_by_relative_path(tmp_path):
    files = [f"{person}/{i}.jpg" for person in "ab" for i in range(2)]
    touch(tmp_path, *files)
    write_partition(tmp_path / "list_eval_partition.txt", ["a/0.jpg 0", "a/1.jpg 1", "b/0.jpg 2", "b/1.jpg 0"])
    assert names(load(tmp_path)) == [["a/0.jpg", "b/1.jpg"], ["a/1.jpg"], ["b/0.jpg"]]


def test_stems_that_are_not_unique_are_matched_by_name(tmp_path):
    touch(tmp_path, "x/1.jpg", "x/1.png", "x/2.jpg")
    write_partition(tmp_path / "list_eval_partition.txt", ["1.jpg 0", "1.png 1", "2.jpg 2"])
    assert names(load(tmp_path)) == [["x/1.jpg"], ["x/1.png"], ["x/2.jpg"]]


def test_the_partition_file_of_other_images_beside_the_folder_is_left_alone(tmp_path, caplog):
    celeba(tmp_path)
    touch(tmp_path / "holidays", *(f"beach{i}.jpg" for i in range(10)))
    with caplog.at_level(logging.INFO, LOG):
        made = load(tmp_path / "holidays")
    assert [len(part) for part in names(made)] == [7, 1, 2]
    assert any("names none of the images, or few, and is not used" in message for message in caplog.messages)


def test_a_link_to_a_folder_of_images_beside_the_partition_file(tmp_path):
    celeba(tmp_path / "store", images="deep/down/images")
    (tmp_path / "project").mkdir()
    (tmp_path / "store/list_eval_partition.txt").rename(tmp_path / "project/list_eval_partition.txt")
    (tmp_path / "project/images").symlink_to(tmp_path / "store/deep/down/images", target_is_directory=True)
    assert subjects(load(tmp_path / "project/images")) == CELEBA_SPLIT


GOOD = ["1.jpg 0", "2.jpg 1", "3.jpg 2"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["3", *GOOD], "line 1 of .*mine.txt cannot be read; write it like '000001.jpg 0'"),
        ([*GOOD, "4.jpg"], "line 4 of .*mine.txt cannot be read"),
        (
            ["1.jpg 0", "2.jpg 3", "3.jpg 2"],
            r"line 2 of .*mine.txt gives 2.jpg the partition '3', where 0 \(training\)",
        ),
        (["1.jpg 0", "2.jpg 1", "3.jpg test"], "line 3 of .*mine.txt gives 3.jpg the partition 'test'"),
        ([*GOOD, "", "1.jpg 2"], "line 5 of .*mine.txt names 1.jpg for the second time"),
        (GOOD[:2], "mine.txt does not name 1 of the 3 images of .*, 3.jpg the first; give the partition_file"),
        ([*GOOD, "4.jpg 0", "5.jpg 0"], r"mine.txt names 2 images that .* does not hold, 4.jpg the first; complete"),
        (["x.jpg 0", "y.jpg 1", "z.jpg 2"], "mine.txt does not name 3 of the 3 images"),
        (["1.jpg 0", "2.jpg 0", "3.jpg 2"], r"mine.txt has no line for validation \(1\)"),
        (["1.jpg 1", "2.jpg 1", "3.jpg 2"], r"mine.txt has no line for training \(0\)"),
        ([], r"mine.txt has no line for training \(0\)"),
    ],
)
def test_partition_files_that_cannot_be_used(tmp_path, lines, message):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    path = write_partition(tmp_path / "mine.txt", lines)
    with pytest.raises(DataError, match=message):
        load(tmp_path, partition_file=path)


@pytest.mark.parametrize("rows", [["a,b,partition"], ["1.jpg"], ["1.jpg,0,x"], ["1.jpg 0"]])
def test_csv_lines_that_cannot_be_read(tmp_path, rows):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    path = write_partition(tmp_path / "mine.csv", ["image_id,partition", *rows])
    with pytest.raises(DataError, match=r"line 2 of .*mine\.csv cannot be read"):
        load(tmp_path, partition_file=path)


def test_a_partition_file_without_test_images_leaves_the_test_empty(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    write_partition(tmp_path / "list_eval_partition.txt", ["1.jpg 0", "2.jpg 1"])
    assert names(load(tmp_path)) == [["1.jpg"], ["2.jpg"], []]


def test_a_partition_file_that_is_missing_or_no_text(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    with pytest.raises(DataError, match=r"partition_file .*nowhere\.txt is not there"):
        load(tmp_path, partition_file=tmp_path / "nowhere.txt")
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe1\x00.\x00")
    with pytest.raises(DataError, match=r"partition_file .*mine\.txt cannot be read as text"):
        load(tmp_path, partition_file=tmp_path / "mine.txt")


@pytest.mark.parametrize("validation", ["val", "valid", "Validation"])
def test_folders_train_val_and_test_are_the_splits(tmp_path, caplog, validation):
    touch(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{validation}/cat/2.png", "test/dog/3.png", "extra/4.png")
    with caplog.at_level(logging.INFO, LOG):
        made = load(tmp_path)
    assert names(made) == [["train/cat/1.png", "train/dog/1.png"], [f"{validation}/cat/2.png"], ["test/dog/3.png"]]
    folders = ", ".join(sorted(["train", validation, "test"]))
    expected = f"Split by the folders {folders} of {tmp_path} without the 1 image outside: 2 training, 1 validation"
    assert caplog.messages[-1].startswith(expected)


def test_without_a_validation_folder_a_tenth_of_the_training_images_is_drawn_by_seed(tmp_path, caplog):
    touch(tmp_path, *(f"Train/{i}.png" for i in range(30)), *(f"Test/{i}.png" for i in range(5)))
    with caplog.at_level(logging.INFO, LOG):
        made = load(tmp_path)
    assert [len(part) for part in names(made)] == [27, 3, 5]
    assert all(name.startswith("Test/") for name in names(made)[2])
    assert sorted(names(made)[0] + names(made)[1]) == sorted(f"Train/{i}.png" for i in range(30))
    assert "10% of the training images drawn for validation with seed 0" in caplog.messages[-1]
    assert made == load(tmp_path)
    assert names(made)[1] != names(load(tmp_path, seed=1))[1]
    assert names(made)[2] == names(load(tmp_path, seed=1))[2]


def test_one_training_image_cannot_be_divided(tmp_path):
    with pytest.raises(DataError, match="has 1 subject to train on and names none for validation"):
        load(touch(tmp_path, "train/1.png", "test/2.png"))


def test_train_and_val_alone_are_splits_too(tmp_path):
    assert names(load(touch(tmp_path, "train/1.png", "val/2.png"))) == [["train/1.png"], ["val/2.png"], []]


@pytest.mark.parametrize("folders", [("train", "cat"), ("test", "val"), ("cat", "dog")])
def test_other_folders_are_no_splits(tmp_path, folders):
    touch(tmp_path, *(f"{folder}/{i}.png" for folder in folders for i in range(5)))
    assert [len(part) for part in names(load(tmp_path))] == [7, 1, 2]


def test_a_partition_file_goes_before_folders(tmp_path):
    touch(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    write_partition(tmp_path / "list_eval_partition.txt", ["3.png 0", "1.png 1", "2.png 2"])
    assert names(load(tmp_path)) == [["test/3.png"], ["train/1.png"], ["train/2.png"]]


# CIFAR-10


@pytest.mark.parametrize("parent", [False, True])
def test_cifars_batches(tmp_path, caplog, parent):
    folder = make_cifar(tmp_path / "cifar-10-batches-py", rows=4)
    with caplog.at_level(logging.INFO, LOG):
        made = load(tmp_path if parent else folder)
    assert made.dataset_dir == folder.resolve()
    assert [len(part) for part in names(made)] == [18, 2, 4]
    assert names(made)[2] == [f"test_batch#{i}" for i in range(4)]
    expected = [f"data_batch_{batch}#{i}" for batch in range(1, 6) for i in range(4)]
    assert sorted(names(made)[0] + names(made)[1]) == expected
    assert all(entry["subject"] == entry["image"] for split in SPLITS for entry in getattr(made, split))
    assert "CIFAR-10's batches in" in caplog.messages[-1]
    assert "18 training, 2 validation, 4 test images" in caplog.messages[-1]
    assert made == load(folder)
    assert names(made)[1] != names(load(folder, seed=1))[1]


def test_a_list_of_rows_is_written_and_taken_back(tmp_path):
    made = load(make_cifar(tmp_path / "batches"))
    made.write(tmp_path / "datalist.json")
    back = load(None, datalist=tmp_path / "datalist.json")
    assert names(back) == names(made)
    assert back.items("test")[0]["image"] == f"{tmp_path.resolve()}/batches/test_batch#0"
    (tmp_path / "batches/data_batch_2").unlink()
    with pytest.raises(DataError, match="data_batch_2, which is not there"):
        read_datalist(tmp_path / "datalist.json")


def test_missing_batches_and_archives_that_are_not_unpacked(tmp_path):
    folder = make_cifar(tmp_path / "batches")
    (folder / "data_batch_5").unlink()
    with pytest.raises(DataError, match="has no data_batch_5"):
        load(folder)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz; unpack it: tar -xzf"):
        load(touch(tmp_path / "archive", "cifar-10-python.tar.gz"))


# Lists, the sample, evaluation


def test_a_given_list_goes_before_everything(tmp_path):
    celeba(tmp_path)
    entries = {"training": "img_align_celeba/000006.jpg", "validation": "img_align_celeba/000001.jpg"}
    content = {split: [{"image": image, "subject": image}] for split, image in entries.items()}
    (tmp_path / "list.json").write_text(json.dumps(content))
    assert names(load(tmp_path, datalist=tmp_path / "list.json")) == [
        [entries["training"]],
        [entries["validation"]],
        [],
    ]


def test_a_list_of_images_is_written_and_taken_back(tmp_path):
    made = load(celeba(tmp_path / "größe"))
    made.write(tmp_path / "list.json")
    assert load(None, datalist=tmp_path / "list.json") == made


def sample(folder, **mark):
    """What :func:`make_photographs` leaves, without its photographs."""
    celeba(folder, images=".", suffix=".png")
    touch(folder, "LICENSE.txt")
    (folder / "sample.json").write_text(json.dumps({"image_size": 32, "seed": 0, "whole": True, **mark}))
    return folder


def test_the_built_in_sample_is_known_by_its_mark_and_said(tmp_path, caplog):
    folder = sample(tmp_path)
    with caplog.at_level(logging.INFO, LOG):
        made = load(folder, pattern="img_align_celeba/*.jpg")
    assert subjects(made) == CELEBA_SPLIT
    assert made.remark == "crops of the built-in photographs"
    assert all(item["remark"] == made.remark for item in made.items("training"))
    assert caplog.messages == [
        "The built-in sample, crops of photographs that scikit-image ships, not for results: 3 training, 1 validation, "
        "2 test images."
    ]
    assert evaluation(folder, "*.jpg", None, "validation").remark == made.remark
    assert len(evaluation(folder, "*.jpg", None, "all").test) == 6


def test_the_beginning_of_the_sample_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds only the beginning of the sample"):
        load(sample(tmp_path, whole=False))


@pytest.mark.parametrize("content", ["", "[1, 2]", "nonsense", '{"whole": true}'])
def test_a_file_of_the_same_name_is_no_mark(tmp_path, content):
    (sample(tmp_path) / "sample.json").write_text(content)
    assert load(tmp_path).remark == ""


NOTHING = [
    (None, {}, "there is neither a dataset_dir nor a datalist; give the folder that holds the images."),
    ("nowhere", {}, "nowhere is not a folder, nothing is there; give"),
    ("empty", {}, r"empty holds no image \(0 other files\); give"),
    ("few", {}, "few holds 1 image, but training, validation and test need at least 3"),
    ("few", {"pattern": "*.png"}, "none that matches"),
    ("few", {"partition_file": "missing.txt"}, r"missing\.txt is not there"),
    ("few", {"datalist": "missing.json"}, r"missing\.json cannot be read as JSON"),
]


@pytest.mark.parametrize(("folder", "options", "problem"), NOTHING)
def test_where_nothing_can_be_used_the_list_is_empty_and_says_why(tmp_path, monkeypatch, folder, options, problem):
    """So that a config parses where there is no data."""
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "few/a.jpg")
    (tmp_path / "empty").mkdir()
    arguments = {"pattern": "*", "datalist": None, "partition_file": None, **options}
    pattern, datalist, partition_file = arguments.values()
    for made in (
        load_image_datalist(folder, pattern, datalist, partition_file, 0),
        evaluation_image_datalist(folder, pattern, datalist, "test", partition_file),
    ):
        assert [made.items(split) for split in SPLITS] == [[], [], []]
        assert made.problem
        assert "--" not in made.problem
        with pytest.raises(DataError):
            made.require()
    with pytest.raises(DataError, match=problem):
        load_image_datalist(folder, pattern, datalist, partition_file, 0).require()


def test_an_evaluation_takes_a_split_of_a_list(tmp_path):
    made = load(celeba(tmp_path / "celeba"))
    made.write(tmp_path / "list.json")
    for split, expected in zip(SPLITS, CELEBA_SPLIT, strict=True):
        assert subjects(evaluation(None, "", tmp_path / "list.json", split)) == [[], [], expected]
    everything = evaluation(None, "", tmp_path / "list.json", "all")
    assert subjects(everything)[2] == list(chain(*CELEBA_SPLIT))
    Datalist(made.dataset_dir, made.training, made.validation, []).write(tmp_path / "list.json")
    with pytest.raises(DataError, match="has no entry under 'test'"):
        evaluation(None, "", tmp_path / "list.json", "test")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_evaluation_without_a_list_takes_the_split_that_the_folder_says(tmp_path, split):
    made = evaluation(celeba(tmp_path), "**/*", None, split)
    assert subjects(made) == [[], [], CELEBA_SPLIT[SPLITS.index(split)]]


def test_an_evaluation_takes_the_split_of_a_given_partition_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = celeba(tmp_path / "celeba", partition="../elsewhere/mine.txt")
    made = evaluation(folder, "**/*", None, "test", tmp_path / "elsewhere" / "mine.txt")
    assert subjects(made) == [[], [], CELEBA_SPLIT[2]]
    with pytest.raises(DataError, match=r"none\.txt is not there"):
        evaluation(folder, "**/*", None, "test", tmp_path / "none.txt")


def test_an_evaluation_without_a_list_takes_all_images_of_a_folder(tmp_path):
    assert names(evaluation(touch(tmp_path, "a.jpg", "b.jpg"), "*", None, "all")) == [
        [],
        [],
        ["a.jpg", "b.jpg"],
    ]


def test_an_evaluation_draws_nothing_at_random(tmp_path):
    touch(tmp_path, *(f"{i}.jpg" for i in range(10)))
    with pytest.raises(DataError, match="does not say which of its images are for test"):
        evaluation(tmp_path, "*", None, "test")


def test_an_evaluation_of_cifars_batches(tmp_path):
    folder = make_cifar(tmp_path, rows=3)
    assert names(evaluation(folder, "*", None, "test"))[2] == [f"test_batch#{i}" for i in range(3)]
    assert len(evaluation(folder, "*", None, "all").test) == 18
    with pytest.raises(DataError, match="for validation"):
        evaluation(folder, "*", None, "validation")


def test_an_evaluation_of_nothing():
    with pytest.raises(DataError, match="neither a dataset_dir nor a datalist"):
        evaluation(None, "*", None, "test")
