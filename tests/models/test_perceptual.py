"""Perceptual distances against the packages' own code, where that is installed."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models import perceptual
from nuwa_lightning.models.perceptual import LPIPS, STLPIPS, build_perceptual

needs_stlpips = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("stlpips_pytorch") is None, reason="stlpips-pytorch is not installed"
)


@pytest.fixture(scope="module")
def pairs(sample_photos) -> tuple[torch.Tensor, torch.Tensor]:
    photos = [torch.from_numpy(p[100:196, 200:296].copy()).permute(2, 0, 1) for p in sample_photos.values()]
    image = torch.stack(photos).float() / 127.5 - 1
    noisy = (image + 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    return image, noisy


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """The folder of torch hub's weights, empty whatever this machine has."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@needs_stlpips
def test_equals_the_packages_own_numbers(pairs, monkeypatch):
    # The package imports what it does not need for this; empty stand-ins do.
    for name in ("torchsummary", "IPython"):
        stub = types.ModuleType(name)
        stub.summary = stub.embed = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, stub)
    package = pytest.importorskip("stlpips_pytorch.stlpips")
    theirs = package.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    with torch.no_grad():
        expected = theirs(*pairs).flatten()
        exact = STLPIPS.from_package(fused=False)(*pairs)
        fast = STLPIPS.from_package()(*pairs)
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-6)
    # Fused, only the outermost pixels differ.
    torch.testing.assert_close(fast, expected, rtol=0.05, atol=0)


@needs_stlpips
def test_gradient_flows_to_the_first_image_only(pairs):
    network = build_perceptual("auto")
    assert isinstance(network, STLPIPS)
    assert network.name.startswith("ST-LPIPS")
    a, b = (x[:1, :, :48, :48].clone().requires_grad_() for x in pairs)
    network(a, b).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    assert a.grad.abs().max() > 0
    assert b.grad is None
    assert not any(p.requires_grad for p in network.parameters())


@needs_stlpips
def test_gradient_is_finite_for_equal_flat_images():
    network = STLPIPS.from_package()
    flat = torch.zeros(1, 3, 48, 48, requires_grad=True)
    distance = network(flat, flat.detach())
    distance.sum().backward()
    assert distance.item() == 0
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def fake_vgg() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A trunk of VGG-16's shape with the seed's weights, and heads."""
    generator = torch.Generator().manual_seed(0)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    trunk = {}
    for number, before, after in zip(numbers, widths[:-1], widths[1:], strict=True):
        trunk[f"features.{number}.weight"] = (
            torch.randn(after, before, 3, 3, generator=generator) * (2 / 9 / before) ** 0.5
        )
        trunk[f"features.{number}.bias"] = torch.zeros(after)
    num_heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    return trunk, num_heads


def test_lpips_equals_the_packages_own_numbers(pairs, tmp_path):
    pytest.importorskip("torchvision")
    package = pytest.importorskip("lpips")
    trunk, num_heads = fake_vgg()
    torch.save(trunk, tmp_path / "vgg16.pth")
    torch.save(num_heads, tmp_path / "heads.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # torchvision's own deprecated arguments
        theirs = package.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    names = [name for name in theirs.net.state_dict() if name.endswith("weight")]
    state = {}
    for name in names:
        number = name.split(".")[1]
        state[name] = trunk[f"features.{number}.weight"]
        state[name.replace("weight", "bias")] = trunk[f"features.{number}.bias"]
    theirs.net.load_state_dict(state)
    for i in range(5):
        getattr(theirs, f"lin{i}").load_state_dict({"model.1.weight": num_heads[f"lin{i}.model.1.weight"]})
    theirs.eval()
    small = [x[:, :, :64, :64] for x in pairs]
    ours = build_perceptual("auto", vgg16=tmp_path / "vgg16.pth", lpips_heads=tmp_path / "heads.pth")
    assert isinstance(ours, LPIPS)
    assert ours.name.startswith("LPIPS")
    with torch.no_grad():
        torch.testing.assert_close(ours(*small), theirs(*small).flatten(), rtol=1e-3, atol=1e-6)


@needs_stlpips
def test_lpips_is_found_where_its_weights_are_kept(hub, tmp_path, monkeypatch, caplog):
    trunk, num_heads = fake_vgg()
    package = tmp_path / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('its code is not to run')")
    torch.save(num_heads, package / "weights" / "v0.1" / "vgg.pth")
    torch.save(trunk, tmp_path / "vgg16.pth")
    digest = hashlib.sha256((tmp_path / "vgg16.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "_VGG16", f"vgg16-{digest[:8]}.pth")
    found = perceptual._package_folder
    monkeypatch.setattr(perceptual, "_package_folder", lambda name: package if name == "lpips" else found(name))
    assert isinstance(build_perceptual("auto"), STLPIPS)
    kept = shutil.copy(tmp_path / "vgg16.pth", hub / f"vgg16-{digest[:8]}.pth")
    for kind in ("auto", "lpips"):
        ours = build_perceptual(kind)
        assert isinstance(ours, LPIPS)
        assert torch.equal(ours.weights[0], trunk["features.0.weight"])
    assert isinstance(build_perceptual("st-lpips"), STLPIPS)
    with open(kept, "ab") as file:
        file.write(b"more")
    assert isinstance(build_perceptual("auto"), STLPIPS)
    assert f"{kept}: not used, its sha256 is not that in its name" in caplog.text
    with pytest.raises(UsageError, match="torch hub's cache"):
        build_perceptual("lpips")


def test_the_package_is_found_without_running_its_code():
    pytest.importorskip("lpips")
    num_heads = perceptual._package_heads()
    assert num_heads is not None
    assert num_heads.is_file()


def test_what_is_missing_or_wrong_is_named(tmp_path):
    with pytest.raises(UsageError, match="use auto, lpips"):
        build_perceptual("vgg")
    with pytest.raises(UsageError, match="give both"):
        build_perceptual("lpips")
    with pytest.raises(UsageError, match="no such file"):
        LPIPS.from_files(tmp_path / "a.pth", tmp_path / "b.pth")
    (tmp_path / "a.pth").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="not a plain file of weights"):
        LPIPS.from_files(tmp_path / "a.pth", tmp_path / "a.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(UsageError, match="is missing"):
        LPIPS.from_files(tmp_path / "c.pth", tmp_path / "c.pth")
    assert build_perceptual("none") is None
