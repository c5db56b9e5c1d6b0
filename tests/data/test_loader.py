import itertools
import logging
from itertools import chain, islice

import pytest
from torch.utils.data import DistributedSampler, SequentialSampler

from monai_blurvae.data import EndlessBatchSampler, ShareSampler, TrainLoader


class Numbers:
    shuffle = True

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"image": index}


def test_the_stream_of_batches():
    sampler = EndlessBatchSampler(10, 4)
    assert len(sampler) == 3
    stream = list(islice(sampler, 7))
    assert [len(batch) for batch in stream] == [4, 4, 2, 4, 4, 2, 4]
    assert [i for batch in stream for i in batch] == list(range(24))
    sampler.start_iteration = 4
    assert list(islice(sampler, 3)) == stream[4:]


@pytest.mark.parametrize("size", [12, 16, 17])
def test_processes_take_the_batches_of_one_in_equal_parts(size):
    """Batches of 2 × 3 images over two epochs; of 17 images the first fills the last batch up."""
    one = EndlessBatchSampler(size, 6)
    parts = [EndlessBatchSampler(size, 3, rank, 2) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(one)
    for i, (batch, *shares) in enumerate(islice(zip(one, *parts, strict=True), 2 * len(one))):
        ends_an_epoch = i % len(one) == len(one) - 1
        filler = [i // len(one) * size] * (size % 2) if ends_an_epoch else []
        assert [*shares[0], *shares[1]] == batch + filler
        assert len(shares[0]) == len(shares[1])


def test_what_comes_twice_is_told(caplog):
    caplog.set_level(logging.INFO, "monai_blurvae")
    for size in (16, 17):
        TrainLoader(Numbers(size), 3, sampler=DistributedSampler(Numbers(size), 2, 0))
    assert [record.message for record in caplog.records] == [
        "A batch has 2 × 3 = 6 images.",
        "A batch has 2 × 3 = 6 images; the first 1 of an epoch's 17 come twice in it, to fill its last batch up.",
    ]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_each_process_evaluates_its_share_or_where_there_are_too_few_all(size):
    shares = [list(ShareSampler(range(size), 3, rank)) for rank in range(3)]
    assert shares == [[0, 1]] * 3 if size == 2 else sorted(chain(*shares)) == list(range(size))
    assert all(shares)


def test_no_data_is_no_error_until_batches_are_asked_for():
    loader = TrainLoader(Numbers(0), 4)
    assert len(loader) == 0
    with pytest.raises(ValueError, match="training data is empty"):
        next(iter(loader))


def test_a_distributed_sampler_tells_the_rank():
    loader = TrainLoader(Numbers(), 4, sampler=DistributedSampler(Numbers(), 2, 1, shuffle=False), shuffle=False)
    assert next(iter(loader))["image"].tolist() == [4, 5, 6, 7]
    assert len(loader) == 2


def test_unsuitable_arguments():
    for arguments in ((-1, 4), (4, 0), (4, 4, 2, 2)):
        with pytest.raises(ValueError, match=r"positive|rank"):
            EndlessBatchSampler(*arguments)
    with pytest.raises(ValueError, match="DistributedSampler"):
        TrainLoader(Numbers(), 4, sampler=SequentialSampler(range(3)))


def test_a_dataset_that_does_not_mix_itself_is_mixed_anew_in_each_epoch():
    data = [{"image": n} for n in range(10)]

    def epochs(seed, workers=0):
        batches = itertools.islice(TrainLoader(data, 4, num_workers=workers, seed=seed), 9)
        return [[int(n) for batch in part for n in batch["image"]] for part in zip(*[batches] * 3, strict=True)]

    first, second, third = epochs(0)
    assert sorted(first) == sorted(second) == sorted(third) == list(range(10))
    assert first != second
    assert epochs(0, workers=2) == [first, second, third]
    assert epochs(1) != [first, second, third]
