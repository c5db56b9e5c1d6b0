import pytest

from monai_blurvae.data.facts import EpochOrder


def test_every_epoch_has_everything_once_in_an_order_of_its_own():
    order = EpochOrder(50, seed=1)
    epochs = [[order[50 * epoch + i] for i in range(50)] for epoch in range(3)]
    assert all({number for number, _ in drawn} == {epoch} for epoch, drawn in enumerate(epochs))
    places = [tuple(place for _, place in drawn) for drawn in epochs]
    assert all(sorted(drawn) == list(range(50)) for drawn in places)
    assert len(set(places)) == 3


def test_the_order_is_a_function_of_the_seed_and_the_epoch():
    forwards, backwards = EpochOrder(7, seed=1), EpochOrder(7, seed=1)
    drawn = [forwards[n] for n in range(21)]
    assert [backwards[n] for n in reversed(range(21))] == drawn[::-1]
    assert [EpochOrder(7, seed=2)[n] for n in range(21)] != drawn


@pytest.mark.parametrize(("size", "index"), [(0, 0), (3, -1)])
def test_what_is_not_there(size, index):
    with pytest.raises(IndexError):
        EpochOrder(size, seed=0)[index]
