"""Resizing and its matrices."""

import pytest
import torch
import torch.nn.functional as F

from ntt.ops.resize import resize_bands, resize_bicubic, resize_matrix


def test_upsampling_two_cells_to_four_worked_by_hand():
    expected = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    assert torch.equal(resize_matrix(2, 4, antialias=False), expected)


def test_antialiased_shrinking_worked_by_hand():
    # Halving widens the triangle to four inputs, cut and renormalised at the borders: 0.75, 0.75, 0.25 of 1.75.
    expected = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    torch.testing.assert_close(resize_matrix(4, 2, antialias=True), expected)
    plain = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(resize_matrix(4, 2, antialias=False), plain)


@pytest.mark.parametrize(("inputs", "outputs"), [(37, 256), (37, 100), (16, 16), (1, 5), (64, 48)])
def test_matrix_equals_interpolate(inputs: int, outputs: int):
    map_hw = torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(0))
    matrix = resize_matrix(inputs, outputs, antialias=False)
    expected = F.interpolate(map_hw[None, None], (outputs, outputs), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(matrix @ map_hw @ matrix.T, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(outputs))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(("inputs", "outputs", "antialias"), [(37, 256, False), (256, 100, True), (9, 3, False)])
def test_bands_hold_the_whole_matrix(inputs: int, outputs: int, antialias: bool, adjoint: bool):
    matrix = resize_matrix(inputs, outputs, antialias=antialias)
    expected = matrix.T if adjoint else matrix
    rebuilt = torch.zeros_like(expected)
    for band in resize_bands(inputs, outputs, antialias=antialias, adjoint=adjoint, count=5):
        rebuilt[band.outputs, band.inputs] = band.weights_oi
    assert torch.equal(rebuilt, expected)


def test_more_bands_than_rows_are_not_made():
    assert len(resize_bands(2, 3, antialias=False, adjoint=False, count=8)) == 3


def test_bicubic_keeps_overshoot_and_follows_interpolate():
    step = torch.zeros(3, 8, 8)
    step[:, :, 4:] = 1.0
    resized = resize_bicubic(step, (20, 30))
    assert resized.shape == (3, 20, 30)
    assert resized.max() > 1.0
    assert torch.equal(resized, F.interpolate(step[None], (20, 30), mode="bicubic", align_corners=False)[0])
