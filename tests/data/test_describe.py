import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, GaussianSmoothd, Lambdad, OneOf, RandFlipd, RandRotate90d, Rotate90d

from monai_blurvae.data import describe_transform
from monai_blurvae.data.facts import digest_of
from tests.commands import command
from tests.pipelines import prepare
from tests.volumes import brain, save

CONFIG = {
    "scale": 2.5,
    "other": 1,
    "transform": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 9, "b_min": -1, "b_max": 1},
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x * @scale"},
            {"_target_": "RandFlipd", "keys": "image", "prob": 0.5},
        ],
    },
}


def key(transform):
    return digest_of(describe_transform(transform))


def parsed(**changes):
    parser = ConfigParser(CONFIG)
    for key, value in changes.items():
        parser[key.replace("__", "::")] = value
    return parser.get_parsed_content("transform")


def test_two_parses_are_equal_also_in_another_process():
    assert describe_transform(parsed()) == describe_transform(parsed())
    program = "from tests.data.test_describe import key, parsed; print(key(parsed()))"
    other = command("-c", program, imports=True)
    assert other.stdout.strip() == key(parsed())
    assert "0x" not in json.dumps(describe_transform(parsed()))


def test_any_argument_counts():
    keys = {
        key(parsed(**changes))
        for changes in (
            {},
            {"transform__transforms__1__a_max": 8},
            {"transform__transforms__1__b_min": -0.5},
            {"transform__transforms__0__keys": "label"},
            {"transform__transforms__3__prob": 0.25},
            {"transform__transforms__2__func": "$lambda x: x + @scale"},
            {"scale": 2.0},
        )
    }
    assert len(keys) == 7
    assert key(parsed(other=2)) == key(parsed())


def test_random_state_does_not_count_but_order_and_nesting_do():
    a, b = RandFlipd("image", 0.5), RandRotate90d("image", 0.5)
    first = Compose([a, b])
    before = describe_transform(first)
    first.set_random_state(7)
    a({"image": torch.zeros(1, 4, 4)})
    assert describe_transform(first) == before
    assert describe_transform(Compose([b, a])) != before
    assert describe_transform(OneOf([a, b], weights=[0.2, 0.8])) != describe_transform(
        OneOf([a, b], weights=[0.5, 0.5])
    )


def test_use_changes_nothing(tmp_path):
    transform = prepare([40, 40, 40])
    before = describe_transform(transform)
    transform({"image": save(tmp_path / "a.nii", brain())})
    assert describe_transform(transform) == before


def test_prepared_volumes_and_sizes():
    assert key(prepare()) == key(prepare())
    assert len({key(prepare(size)) for size in (None, 40, 41, [40, 40, 41])}) == 4


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Lambdad("image", double), Lambdad("image", lambda x: 2 * x)),
        (Lambdad("image", lambda x: 2 * x), Lambdad("image", lambda x: 3 * x)),
        (GaussianSmoothd("image", 1.0), GaussianSmoothd("image", 1.5)),
        (Rotate90d("image", 1), Rotate90d("image", 2)),
        (np.zeros(3), np.ones(3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        ({1, 2}, {1, 3}),
        (1.0, "1.0"),
        (float("inf"), float("nan")),
        (np.float32, np.float64),
        (b"a", b"b"),
    ],
)
def test_differences(one, two):
    assert describe_transform(one) == describe_transform(one)
    assert key(one) != key(two)


def test_what_contains_itself_ends():
    loop = [1]
    loop.append(loop)
    assert describe_transform(loop) == [1, {"contained_in": 1}]
