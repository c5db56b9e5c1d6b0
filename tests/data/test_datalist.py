import json
import logging

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

LOG = "monai_blurvae.data.datalist"


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
    assert find_volumes(tmp_path, "*/anat/*.nii.gz") == [
        {"image": "x/anat/T1.nii.gz", "subject": "x"},
        {"image": "y/anat/T1.nii.gz", "subject": "y"},
    ]


def test_visits_are_volumes_of_one_person_with_names_of_their_own(tmp_path, caplog):
    touch(tmp_path, "OAS1_0001_MR1.nii", "OAS1_0001_MR2.nii", "OAS1_0002_MR1.nii")
    with caplog.at_level(logging.INFO, LOG):
        found = find_volumes(tmp_path, "*.nii")
    assert found == [
        {"image": "OAS1_0001_MR1.nii", "subject": "OAS1_0001", "name": "OAS1_0001_MR1"},
        {"image": "OAS1_0001_MR2.nii", "subject": "OAS1_0001", "name": "OAS1_0001_MR2"},
        {"image": "OAS1_0002_MR1.nii", "subject": "OAS1_0002"},
    ]
    assert caplog.messages == [
        "3 volumes of 2 persons, 1 of them with several: OAS1_0001_MR1.nii and OAS1_0001_MR2.nii, 2 in all, were taken "
        "for OAS1_0001's. If that is wrong, set subject_pattern."
    ]


def test_volumes_whose_paths_differ_in_the_suffix_alone_have_names_of_their_own(tmp_path):
    touch(tmp_path, "a.nii", "a.nii.gz")
    assert [(e["subject"], e["name"]) for e in find_volumes(tmp_path, "*")] == [("a", "a.nii"), ("a", "a.nii.gz")]


@pytest.mark.parametrize("seed", range(5))
def test_all_volumes_of_a_person_come_into_one_split(tmp_path, seed):
    touch(tmp_path, *(f"sub-{i:02d}/ses-{j}/anat/sub-{i:02d}_ses-{j}_T1w.nii.gz" for i in range(10) for j in range(3)))
    listed = load_datalist(tmp_path, "**/*_T1w.nii.gz", None, seed)
    assert [len(listed.items(split)) for split in SPLITS] == [21, 3, 6]
    people = [{item["subject"] for item in listed.items(split)} for split in SPLITS]
    assert [len(found) for found in people] == [7, 1, 2]
    assert len(set.union(*people)) == 10
    assert len({item["name"] for split in SPLITS for item in listed.items(split)}) == 30


def test_a_pattern_names_the_person(tmp_path):
    touch(tmp_path, *(f"scan{i}of{i % 4}.nii" for i in range(8)))
    listed = load_datalist(tmp_path, "*", None, 0, subject_pattern="of([0-9])")
    assert {item["subject"] for split in SPLITS for item in listed.items(split)} == set("0123")
    assert "names no person in scan0of0.nii" in load_datalist(tmp_path, "*", None, 0, "of([7-9])").problem
    assert len({item["subject"] for item in evaluation_datalist(tmp_path, "*", subject_pattern="of(.)").test}) == 4


def test_hidden_files_are_skipped_and_counted(tmp_path, caplog):
    touch(tmp_path, "a.nii", "._a.nii", ".DS_Store", ".git/annex/objects/b.nii", "x/._b.nii")
    with caplog.at_level(logging.INFO, LOG):
        assert subjects(tmp_path, "**/*") == ["a"]
    assert caplog.messages[0] == "Ignored 3 hidden files, .DS_Store among them."


ANNEXED = ".git/annex/objects/Kk/0m/MD5E-s12--d41d8.nii.gz/MD5E-s12--d41d8.nii.gz"


@pytest.mark.parametrize("kind", ["link", "unlocked", "lfs", "other"])
def test_files_that_are_not_downloaded_are_named_with_what_to_run(tmp_path, caplog, kind):
    touch(tmp_path, ".git/HEAD", *(f"sub-0{i}_T1w.nii.gz" for i in range(4)))
    absent = tmp_path / "sub-09_T1w.nii.gz"
    if kind in ("link", "other"):
        absent.symlink_to(ANNEXED if kind == "link" else "/mnt/gone/T1.nii.gz")
    else:
        absent.write_text(
            "/annex/objects/MD5E-s12--d41d8.nii.gz\n"
            if kind == "unlocked"
            else "version https://git-lfs.github.com/spec/v1"
        )
    advice = {"lfs": "git lfs pull", "other": "a link to /mnt/gone/T1.nii.gz"}.get(kind, "datalad get .*git annex get")
    with pytest.raises(DataError, match=f"1 of the 5 files .* are not there, sub-09_T1w.nii.gz the first: .*{advice}"):
        find_volumes(tmp_path, "*.nii.gz")
    found = evaluation_datalist(tmp_path, "*.nii.gz", skip_bad_files=True)
    assert len(found.test) == 4
    assert "Going on without them, 1 of the 5" in caplog.text
    listed = tmp_path / "list.json"
    listed.write_text(
        json.dumps({"training": [{"image": "sub-01_T1w.nii.gz"}], "validation": [{"image": absent.name}]})
    )
    if kind in ("link", "other"):
        with pytest.raises(DataError, match=f"{absent.name}, which is not there, as 1 of 2; .*{advice}"):
            read_datalist(listed)


def test_nothing_is_left_where_all_links_are_broken(tmp_path):
    (tmp_path / "a.nii").symlink_to(ANNEXED)
    problem = evaluation_datalist(tmp_path, "*.nii", skip_bad_files=True).problem
    assert "1 of the 1 files" in problem
    assert "skip_bad_files" not in problem


def test_label_maps_are_warned_of(tmp_path, caplog):
    touch(tmp_path, "sub-1_T1w.nii", "sub-1_dseg.nii", "sub-2_T1w.nii", "sub-2_desc-brain_mask.nii")
    assert len(find_volumes(tmp_path, "*")) == 4
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "2 of 4 volumes look like label maps by their names, sub-1_dseg.nii the first" in warnings[0]


def decathlon(folder, count=12):
    """A list as the Medical Segmentation Decathlon has it; the training images have labels, the test ones none."""
    names = [f"hippocampus_{i:03d}.nii.gz" for i in range(count + 2)]
    touch(folder, *(f"imagesTr/{name}" for name in names[:count]), *(f"imagesTs/{name}" for name in names[count:]))
    content = {
        "name": "Hippocampus",
        "description": "Left and right hippocampus segmentation",
        "numTraining": count,
        "numTest": 2,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:count]],
        "test": [f"./imagesTs/{name}" for name in names[count:]],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder / "dataset.json"


def test_a_list_of_the_decathlon(tmp_path, caplog):
    path = decathlon(tmp_path)
    listed = load_datalist(None, "", path, 3).require()
    assert [len(listed.items(split)) for split in SPLITS] == [11, 1, 2]
    assert listed.items("test")[0] == {
        "image": str(tmp_path / "imagesTs/hippocampus_012.nii.gz"),
        "subject": "imagesTs/hippocampus_012",
    }
    drawn = {load_datalist(None, "", path, seed).validation[0]["subject"] for seed in range(20)}
    assert len(drawn) > 3
    assert load_datalist(None, "", path, 3).validation == listed.validation
    assert len(evaluation_datalist(None, "", path, "test").test) == 2
    assert (
        "no entry under 'validation', but 12 under 'training'"
        in evaluation_datalist(None, "", path, "validation").problem
    )
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_list_may_have_several_volumes_of_a_person_in_one_split(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "c.nii", "d.nii")
    of_one = [{"image": f"{name}.nii", "subject": "one"} for name in "ab"]
    content = {"training": of_one, "validation": [{"image": "c.nii", "subject": "two", "name": "mine"}]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    listed = read_datalist(tmp_path / "list.json")
    assert listed.training == [entry | {"name": entry["image"][0]} for entry in of_one]
    assert listed.validation == [{"image": "c.nii", "subject": "two", "name": "mine"}]
    listed.write(tmp_path / "again.json")
    assert read_datalist(tmp_path / "again.json").training == listed.training


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        ([], "*.nii.gz", r"holds no volume that matches '\*.nii.gz' \(it holds 0 volumes\)"),
        (["x/a.nii"], "*.nii", r"holds no volume that matches .*it holds 1 volume, x/a.nii among them"),
        (
            ["a.mnc", ".b"],
            "*",
            r"matches 1 file .*a.mnc among them, but none of a known format .*convert them to NIfTI",
        ),
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
    with pytest.raises(DataError, match=f"found {count} volumes? of {count} subject"):
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
        (".", None, "holds no volume"),
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
        ({"training": [entry("a.nii")]}, "has 1 subject to train on and names none for validation"),
        ({"validation": [entry("a.nii")]}, "no entry under 'training'"),
        ({"training": "a.nii", "validation": []}, "a str under 'training', where a list"),
        ({"training": [1], "validation": []}, "an entry without 'image' under 'training': 1"),
        ({"training": [entry("a.nii"), entry("a.nii")], "validation": [entry("b.nii")]}, "the image a.nii twice"),
        (
            {"training": [{"image": "a.nii", "subject": "x"}], "validation": [{"image": "b.nii", "subject": "x"}]},
            "the same subject x under 'training' and 'validation'",
        ),
        (
            {"training": [{"image": "sub-1_ses-1.nii"}], "validation": [{"image": "sub-1_ses-2.nii"}]},
            "the same subject sub-1 under 'training' and 'validation'",
        ),
        (
            {"training": [entry("a.nii") | {"sha256": "0f"}], "validation": [entry("b.nii") | {"sha256": "0f"}]},
            "the same content of a.nii and b.nii under 'training' and 'validation'",
        ),
        ({"training": [{"subject": "a"}], "validation": [entry("b.nii")]}, "without 'image'"),
        ({"training": [entry("a.nii")], "validation": [entry("a.nii")]}, "the same image a.nii under 'training' and"),
        ({"training": [entry("a.nii")], "validation": [entry("z.nii")]}, "z.nii, which is not there"),
    ],
)
def test_unusable_lists(tmp_path, content, message):
    touch(tmp_path, "a.nii", "b.nii")
    path = tmp_path / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_datalist(path)
