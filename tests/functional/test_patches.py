import pytest
import torch

from monai_blurvae.functional import covering_steps, image_of, patches_of

SIZES = [(8, 8), (16, 24), (9, 12), (11, 13), (10, 14)]
OFFSETS = [(0, 0), (1, 0), (3, 5), (-2, 7)]


def image(size, batch=2):
    return torch.rand(batch, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", OFFSETS)
def test_the_mean_of_the_patches_is_the_image(size, stride, offset):
    x = image(size)
    patches = patches_of(x, 8, stride, offset)
    torch.testing.assert_close(image_of(patches, size, stride, offset), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_every_pixel_is_in_the_same_number_of_patches(size, stride):
    rows, columns = covering_steps(size, stride)
    x = image(size, 1).requires_grad_()
    patches_of(x, 8, stride, (3, 1)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 64 / (rows * columns)), rtol=0, atol=0)


@pytest.mark.parametrize("offset", OFFSETS)
def test_patches_are_windows_of_the_torus(offset):
    x = image((10, 12))
    patches = patches_of(x, 8, 2, offset)
    assert patches.shape == (2, 5 * 6, 8, 8)
    row, column = offset[0] + 2 * 3, offset[1] + 2 * 4
    rows, columns = [(row + i) % 10 for i in range(8)], [(column + i) % 12 for i in range(8)]
    assert torch.equal(patches[1, 3 * 6 + 4], x[1, 0][rows][:, columns])


def test_the_mean_is_the_adjoint_over_the_number_of_patches():
    size, stride, offset = (10, 9), 2, (1, 4)
    x = image(size)
    patches = patches_of(x, 8, stride, offset)
    other = torch.rand(patches.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    left = (patches * other).sum()
    right = (x * image_of(other, size, stride, offset)).sum() * (8 * 8 / (2 * 1))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("size", "stride", "steps"), [((64, 64), 2, (2, 2)), ((181, 217), 2, (1, 1)), ((12, 9), 8, (4, 1))]
)
def test_the_distance_divides_stride_and_size(size, stride, steps):
    assert covering_steps(size, stride) == steps
