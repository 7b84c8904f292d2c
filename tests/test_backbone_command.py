"""`ntt backbone compare`, with a stand-in for a clone of Meta's repository."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cases
from PIL import Image

from tests.dinov2_layout import meta_shapes
from tests.filled_weights import filled_tensors

SIDE = 42  # a grid of 3 x 3, the only one the stand-in reads

HUBCONF = """
import torch
from tests.dinov2_layout import meta_forward, meta_shapes


class Stand(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in meta_shapes(rows=3).items():
            owner = self
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(leaf, torch.nn.Parameter(torch.randn(shape)))

    def forward_features(self, images):
        state = dict(self.state_dict())
        tokens = meta_forward(state, images, heads=6)
        return {"x_norm_patchtokens": tokens, "x_norm_clstoken": None}


def dinov2_vits14(*, pretrained=True):
    assert not pretrained
    return Stand()
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "dinov2"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small_grid.pth"
    torch.save(filled_tensors(meta_shapes(rows=3)), path)
    return path


def command(repo: Path, weights: Path, *more: str) -> list[str]:
    options = {"--model": "dinov2_vits14", "--repo-dir": repo, "--weights": weights, "--input-size": SIDE}
    return ["backbone", "compare", *(str(word) for option in options.items() for word in option), *more]


def figures(out: str) -> list[float]:
    """The numbers at the end of the three lines of figures."""
    return [float(line.split()[-1]) for line in out.splitlines()[1:4]]


def test_agreement_on_images_of_any_size(repo, weights, cli, tmp_path):
    out = cli(*command(repo, weights))
    assert out.startswith(f"dinov2_vits14 at {SIDE} pixels, one image of random colours: timm's network against")
    difference, size, cosine = figures(out)
    assert 0 < difference < 1e-4
    assert 0.5 < size < 1.5
    assert cosine > 0.999999
    assert out.endswith("the implementations agree within 0.0001\n")
    paths = []
    for index, size in enumerate([(50, 30), (20, 70)]):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.new("RGB", size, (200, 100 * index, 30)).save(paths[-1])
    assert f"at {SIDE} pixels, 2 image(s): timm's" in cli(*command(repo, weights, *paths))


@cases("change", "tolerance", "difference")(
    ("", "0", None), (" + 0.01", "1e-4", 0.01), (" * float('nan')", "1e30", np.nan)
)
def test_another_computation_is_found(repo, weights, change, tolerance, difference, cli):
    changed = HUBCONF.replace('"x_norm_patchtokens": tokens', f'"x_norm_patchtokens": tokens{change}')
    (repo / "hubconf.py").write_text(changed)
    out = cli(*command(repo, weights, "--tolerance", tolerance), status=1)
    if difference is not None:
        assert figures(out)[0] == pytest.approx(difference, rel=0.02, nan_ok=True)
    assert out.endswith(f"the implementations differ by more than {float(tolerance):g}\n")


@cases("more", "message")(
    (["--input-size", "40"], "input_size=40 is not a positive multiple of the patch size 14.* 28 or 42"),
    (["--tolerance", "-1"], "-1.0 is not in the range x>=0"),
    (["--model", "dinov3"], "'dinov3' is no DINOv2 model. Use one of"),
    (["--model", "dinov2_vitb14"], "looks like dinov2_vits14"),
    (["--weights", "none.pth"], "none.pth of dinov2_vits14 does not exist"),
    (["--repo-dir", "nowhere"], "there is no nowhere/hubconf.py"),
    (["missing.png"], "missing.png"),
)
def test_mistakes(repo, weights, more, message, cli):
    err = cli(*command(repo, weights, *more), status=2)
    assert "Error: " in err
    assert re.search(message, err), err
