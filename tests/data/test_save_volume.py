from monai_blurvae.data import SaveVolumed


def test_results_keep_the_structure_of_the_inputs_also_behind_a_link(tmp_path):
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    save = SaveVolumed("pred", tmp_path / "out", data_root_dir=tmp_path / "link")
    for root in ("link", "store"):
        assert save._folder(tmp_path / root / "a" / "x.nii") == tmp_path / "out" / "a"


def test_no_two_inputs_share_a_result():
    save = SaveVolumed("pred", "out")
    inputs = ["/a/x.nii", "/b/x.nii", "/c/x.nii", "/a/x.nii.gz", "/a/1.2.3", "/a/1.2.4"]
    targets = [save.target(name) for name in inputs]
    assert len(set(targets)) == len(inputs)
    assert targets == [save.target(name) for name in inputs]
    assert targets[0].as_posix() == "out/x/x_reconstruction.nii.gz"
