import itertools
from itertools import chain, islice

import pytest
from torch.utils.data import DistributedSampler, SequentialSampler

from monai_blurvae.data import EndlessBatchSampler, TrainLoader


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


def test_processes_share_every_epoch_evenly():
    samplers = [EndlessBatchSampler(10, 2, rank, 3) for rank in range(3)]
    assert {len(sampler) for sampler in samplers} == {2}
    for epoch in range(2):
        parts = [[*chain(*islice(sampler, 2 * epoch, 2 * epoch + 2))] for sampler in samplers]
        assert parts[0] == [10 * epoch + i for i in (0, 3, 6, 9)]
        assert {i for part in parts for i in part} == set(range(10 * epoch, 10 * epoch + 10))
        assert [len(part) for part in parts] == [4, 4, 4]


def test_no_data_is_no_error_until_batches_are_asked_for():
    loader = TrainLoader(Numbers(0), 4)
    assert len(loader) == 0
    with pytest.raises(ValueError, match="training data is empty"):
        next(iter(loader))


def test_a_distributed_sampler_tells_the_rank():
    loader = TrainLoader(Numbers(), 4, sampler=DistributedSampler(Numbers(), 2, 1, shuffle=False), shuffle=False)
    assert next(iter(loader))["image"].tolist() == [1, 3, 5, 7]
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
