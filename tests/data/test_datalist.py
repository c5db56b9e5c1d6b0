import json

import pytest

from monai_blurvae.data import (
    Datalist,
    evaluation_datalist,
    find_volumes,
    load_datalist,
    read_datalist,
    split_subjects,
)
from monai_blurvae.data.datalist import SAMPLE_DESCRIPTION, SPLITS
from monai_blurvae.errors import DataError
from tests.volumes import HCP


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def subjects(folder, pattern):
    return [item["subject"] for item in find_volumes(folder, pattern)]


def test_hcp_subjects_are_folders(tmp_path):
    touch(tmp_path, f"100307/{HCP}", f"100206/{HCP}", "100307/T1w/other.nii.gz", "readme.txt")
    assert find_volumes(tmp_path, f"*/{HCP}") == [
        {"image": f"100206/{HCP}", "subject": "100206"},
        {"image": f"100307/{HCP}", "subject": "100307"},
    ]


def test_a_flat_folder_has_a_subject_for_each_file(tmp_path):
    touch(tmp_path, "b.nii", "a.nii.gz", "c.txt")
    assert subjects(tmp_path, "*") == ["a", "b"]


def test_bids_labels_are_subjects(tmp_path):
    touch(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz")
    assert subjects(tmp_path, "**/*_T1w.nii.gz") == ["sub-01", "sub-02"]


def test_equal_names_in_several_folders(tmp_path):
    touch(tmp_path, "x/anat/T1.nii.gz", "y/anat/T1.nii.gz", "y/extra/T2.nii.gz")
    assert subjects(tmp_path, "*/anat/*.nii.gz") == ["x/anat/T1", "y/anat/T1"]


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        ([], "*.nii.gz", "holds no NIfTI file that matches"),
        (["a.txt"], "*", "holds no NIfTI file that matches"),
        (["a.nii", "a.nii.gz"], "*", "subject a has 2 files, a.nii and a.nii.gz"),
        (["sub-1_T1w.nii", "sub-1_run-2_T1w.nii", "sub-2_T1w.nii"], "*", "subject sub-1 has 2 files"),
        ([f"1/{HCP}", "1/T1w/x.nii.gz"], "/*", "is absolute"),
    ],
)
def test_unusable_folders(tmp_path, names, pattern, message):
    with pytest.raises(DataError, match=message):
        find_volumes(touch(tmp_path, *names), pattern)


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        find_volumes(tmp_path / "nowhere", "*")


@pytest.mark.parametrize(
    ("count", "expected"), [(3, (1, 1, 1)), (10, (7, 1, 2)), (60, (43, 5, 12)), (400, (288, 32, 80))]
)
def test_split_sizes(count, expected):
    volumes = [{"image": f"{i}.nii", "subject": f"{i:03d}"} for i in range(count)]
    parts = split_subjects(volumes, seed=0)
    assert tuple(len(parts[split]) for split in SPLITS) == expected
    names = [item["subject"] for split in SPLITS for item in parts[split]]
    assert sorted(names) == [f"{i:03d}" for i in range(count)]
    assert parts == split_subjects(volumes, seed=0)
    if count > 3:
        assert parts != split_subjects(volumes, seed=1)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_subjects(count):
    with pytest.raises(DataError, match=f"found {count} subject"):
        split_subjects([{"image": f"{i}.nii", "subject": str(i)} for i in range(count)], 0)


def test_a_list_is_written_and_taken_back(tmp_path):
    names = [f"{i}.nii.gz" for i in range(5)]
    touch(tmp_path, *names)
    made = load_datalist(tmp_path, "*.nii.gz", None, seed=3)
    made.write(tmp_path / "list.json")
    back = load_datalist(None, "", tmp_path / "list.json", seed=9)
    assert all(made.items(split) == back.items(split) for split in SPLITS)
    assert made.require() is made


@pytest.mark.parametrize(
    ("dataset_dir", "datalist", "message"),
    [
        (None, None, "there is no data; give the folder"),
        ("nowhere", None, "is not a folder"),
        (".", None, "holds no NIfTI file"),
        (".", "missing.json", "cannot be read as JSON"),
    ],
)
@pytest.mark.parametrize("evaluation", [False, True])
def test_what_cannot_be_found_is_a_problem_that_is_raised_when_it_is_needed(
    tmp_path, monkeypatch, dataset_dir, datalist, message, evaluation
):
    monkeypatch.chdir(tmp_path)
    load = evaluation_datalist if evaluation else load_datalist
    found = load(dataset_dir, "*.nii", datalist, "test" if evaluation else 0)
    assert [found.items(split) for split in SPLITS] == [[], [], []]
    with pytest.raises(DataError, match=message):
        found.require()


def test_the_samples_own_list_is_used_and_a_strangers_is_not(tmp_path):
    names = [f"{i}.nii.gz" for i in range(5)]
    touch(tmp_path, *names)
    parts = {split: [entry(name)] for split, name in zip(SPLITS, names, strict=False)}
    Datalist.of(tmp_path / "elsewhere", parts, SAMPLE_DESCRIPTION, "SYNTHETIC images").write(tmp_path / "datalist.json")
    found = load_datalist(tmp_path, "*.nii.gz", None, 0)
    assert found.items("training") == [
        {"image": str(tmp_path / "0.nii.gz"), "subject": "0.nii.gz", "remark": "SYNTHETIC images"}
    ]
    assert evaluation_datalist(tmp_path, "*", None, "validation").test == [entry("1.nii.gz")]
    Datalist.of(tmp_path, parts, "mine").write(tmp_path / "datalist.json")
    assert len(load_datalist(tmp_path, "*.nii.gz", None, 0).training) == 3
    assert "remark" not in load_datalist(tmp_path, "*.nii.gz", None, 0).items("training")[0]


def entry(name):
    return {"image": name, "subject": name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "holds a list"),
        ({"training": [entry("a.nii")]}, "no entry under 'validation'"),
        ({"training": "a.nii", "validation": []}, "no list under 'training'"),
        ({"training": [{"subject": "a"}], "validation": [entry("b.nii")]}, "without 'image'"),
        ({"training": [entry("a.nii")], "validation": [entry("a.nii")]}, "subject a.nii under 'training' and"),
        ({"training": [entry("a.nii")], "validation": [entry("z.nii")]}, "z.nii, which is not there"),
    ],
)
def test_unusable_lists(tmp_path, content, message):
    touch(tmp_path, "a.nii", "b.nii")
    path = tmp_path / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_datalist(path)
