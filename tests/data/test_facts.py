import numpy as np
import pytest
import torch

from monai_blurvae.data import DatasetFacts, facts_of, require_distinct_contents
from monai_blurvae.errors import DataError
from monai_blurvae.runs.training import TrainingRun
from monai_blurvae.seeding import derive_seed
from tests.pipelines import patches
from tests.volumes import brain, save


def facts(*checksums):
    return DatasetFacts(entries=[{"image": f"{i}.nii", "subject": f"{i}", "sha256": sha} for i, sha in checksums])


def test_the_same_content_in_two_splits_is_refused():
    require_distinct_contents({"training": facts((1, "a"), (2, "a")), "validation": facts((3, "b"))})
    require_distinct_contents(
        {"training": DatasetFacts([{"image": "1.png"}]), "test": DatasetFacts([{"image": "1.png"}])}
    )
    with pytest.raises(DataError, match=r"2.nii \(training\) and 9.nii \(test\) have the same content"):
        require_distinct_contents(
            {"training": facts((1, "a"), (2, "b")), "validation": facts(), "test": facts((9, "b"))}
        )


def test_a_run_on_the_same_volume_in_two_splits_leaves_no_folder(tmp_path):
    data = [[{"image": str(save(tmp_path / f"{name}.nii", brain()))}] for name in "ab"]
    training, validation = (patches(items, tmp_path / "cache", shuffle=False) for items in data)
    run = TrainingRun(tmp_path / "runs")
    with pytest.raises(DataError, match="have the same content"):
        run.record(None, {"training": training, "validation": validation})
    assert not (tmp_path / "runs").exists()


def test_volumes_of_one_person_have_patches_of_their_own_and_lone_ones_those_of_the_person(tmp_path):
    files = [str(save(tmp_path / f"{i}.nii", brain())) for i in range(2)]  # of one content, to compare places
    items = [{"image": file, "subject": "s", "name": f"s{i}"} for i, file in enumerate(files)]
    data = patches(items, tmp_path / "cache", patches_per_volume=4, shuffle=False)
    alone = [
        patches([{"image": files[0], "subject": subject}], tmp_path / "cache", patches_per_volume=4, shuffle=False)
        for subject in ("s0", "s1")
    ]
    for i, sample in enumerate(data):
        expected = alone[i // 4][i % 4]
        assert (sample["subject"], sample["position"]) == ("s", expected["position"])
        assert torch.equal(sample["image"], expected["image"])
    assert [data[i]["position"] for i in range(4)] != [data[i + 4]["position"] for i in range(4)]
    assert [(entry["subject"], entry["name"]) for entry in facts_of(data).entries] == [("s", "s0"), ("s", "s1")]
    assert "name" not in facts_of(alone[0]).entries[0]
    assert derive_seed(0, "evaluation", "s0", 0) != derive_seed(0, "evaluation", "s1", 0)
    assert np.unique([sample["source"] for sample in data]).tolist() == files
