from study.estimate import measure_pace
from study.plan import merged_config
from tests.volumes import ROOT, TINY


def test_the_pace_is_that_of_the_training_which_leaves_nothing(hcp_dir, cache_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = TINY | {"dataset_dir": str(hcp_dir), "cache_dir": cache_dir, "max_epochs": 7, "warmup_epochs": 3}
    config = merged_config([ROOT / "bundles/hcp/train.json", ROOT / "configs/losses/wiener.yaml"], settings)
    pace = measure_pace(config, None, "cpu", 1)
    # 5 subjects: 3 for training, 4 patches each, in batches of 8
    assert pace.iterations == 7 * 2
    assert 0 < pace.seconds < 60
    assert list(tmp_path.iterdir()) == []
