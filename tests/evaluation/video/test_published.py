"""FVD and JEDi with planted weights: features and distances against other implementations of the same definition."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evaluation.__main__ import main
from evaluation.fid import FidAgainst, frechet_distance
from evaluation.published import jedi
from evaluation.record import read_report
from evaluation.video import published
from evaluation.video.published import I3D, VJEPA, VideoMAE
from nuwa_lightning.errors import UsageError


def clip(seed: int, *, frames: int = 16, side: int = 224) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


class Planted(nn.Module):
    """Of I3D's interface, and as little else as its features can be told by: it scales and resizes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 2 * 16, 400)

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert rescale
        assert resize
        assert return_features
        x = 2.0 * x / 255.0 - 1.0
        x = nn.functional.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        return self.layer(nn.functional.adaptive_avg_pool3d(x, [2, 4, 4]).flatten(1))


@pytest.fixture
def i3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Planted]:
    torch.manual_seed(0)
    network = Planted()
    path = tmp_path / "i3d_torchscript.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out; the published file is of it
        torch.jit.script(network).save(str(path))
    monkeypatch.setattr(published, "I3D_SHA256", published.file_sha256(path))
    return path, network


def test_i3d_gets_0_to_255_and_scales_by_itself(i3d: tuple[Path, Planted]) -> None:
    path, network = i3d
    frames = clip(0, side=96)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float()
    wanted = network(pixels, True, True, True)[0].detach().numpy()
    np.testing.assert_allclose(I3D(weights=path)(frames), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="ten frames or more"):
        I3D(weights=path)(frames[:9])


def test_a_program_of_unknown_content_is_not_run(i3d: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "I3D_SHA256", "0" * 64)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UsageError, match="its sha256 is"):
        I3D(weights=i3d[0])


def videomae(path: Path) -> Any:
    """Planted weights under the names of the published file; the same as a model of transformers."""
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    size = {"hidden_size": 176, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    model = VideoMAEModel(VideoMAEConfig(**size, patch_size=14, layer_norm_eps=1e-6)).eval()
    state = {}
    for name, value in model.state_dict().items():
        torch.nn.init.normal_(value, std=0.1)
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        name = name.replace("encoder.layer.", "blocks.").replace("attention.output.dense", "attn.proj")
        name = name.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
        name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
        state[name] = value
    for layer in range(2):
        at = f"blocks.{layer}.attention.attention"
        qkv = [state.pop(f"{at}.{part}.weight") for part in ("query", "key", "value")]
        state[f"blocks.{layer}.attn.qkv.weight"] = torch.cat(qkv)
        for part in ("query", "value"):
            state[f"blocks.{layer}.attn.{part[0]}_bias"] = state.pop(f"{at}.{part}.bias")
        assert not [name for name in state if name.startswith(at)]
    norm = nn.LayerNorm(176, eps=1e-6)
    nn.init.normal_(norm.weight)
    state |= {f"fc_norm.{name}": value for name, value in norm.state_dict().items()}
    torch.save({"module": state}, path)
    return model, norm


def test_videomae_is_that_of_transformers_behind_cd_fvds_pixels(tmp_path: Path) -> None:
    model, norm = videomae(tmp_path / "v.pth")
    frames = clip(1, side=100)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255  # and no mean or spread of ImageNet
    pixels = nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear", align_corners=False)
    with torch.no_grad():
        wanted = norm(model(pixels[None]).last_hidden_state.mean(1))[0].numpy()
    ours = VideoMAE(weights=tmp_path / "v.pth")
    np.testing.assert_allclose(ours(frames), wanted, rtol=1e-5, atol=1e-5)
    assert ours.prefix == f"videomae.{published.file_sha256(tmp_path / 'v.pth')[:8]}-"
    with pytest.raises(UsageError, match="takes 16"):
        ours(frames[:8])


def vjepa(path: Path) -> Any:
    """Planted weights under the names of the published files; the same as layers of PyTorch."""
    torch.manual_seed(0)
    embed = nn.Conv3d(3, 160, (2, 16, 16), (2, 16, 16))
    options: dict[str, Any] = {"batch_first": True, "norm_first": True, "activation": "gelu", "dropout": 0.0}
    layers = [nn.TransformerEncoderLayer(160, 2, 64, layer_norm_eps=1e-6, **options).eval() for _ in range(2)]
    last, position = nn.LayerNorm(160, eps=1e-6), torch.randn(1, 1568, 160)
    pool, query = nn.TransformerEncoderLayer(160, 2, 64, **options).eval(), torch.randn(1, 1, 160)
    for one in (*layers, pool, last):
        for value in one.parameters():
            nn.init.normal_(value, std=0.1)
    names = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj": "attn.proj",
        "linear1": "mlp.fc1", "linear2": "mlp.fc2",
    }  # fmt: skip

    def renamed(layer: nn.Module) -> dict[str, Tensor]:
        found = {}
        for name, value in layer.state_dict().items():
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            found[name] = value
        return found

    state = {f"patch_embed.proj.{name}": value for name, value in embed.state_dict().items()}
    state |= {f"norm.{name}": value for name, value in last.state_dict().items()} | {"pos_embed": position}
    for i, layer in enumerate(layers):
        state |= {f"blocks.{i}.{name}": value for name, value in renamed(layer).items()}
    torch.save({"epoch": 3, "target_encoder": {f"module.backbone.{n}": v for n, v in state.items()}}, path)
    block, probe = "module.pooler.cross_attention_block", {"module.pooler.query_tokens": query}
    for name, value in renamed(pool).items():
        if "qkv" in name:
            kind = name.rpartition(".")[2]
            probe[f"{block}.xattn.q.{kind}"], probe[f"{block}.xattn.kv.{kind}"] = value[:160], value[160:]
        else:
            probe[f"{block}.{name.replace('attn.proj', 'xattn.proj')}"] = value
    torch.save({"epoch": 3, "classifier": probe}, path.with_name("ssv2-probe.pth.tar"))

    def features(frames: Any) -> Any:
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255
        mean, std = (torch.tensor(z).view(1, 3, 1, 1, 1) for z in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            x = embed((pixels - mean) / std).flatten(2).transpose(1, 2) + position
            for layer in layers:
                x = layer(x)
            x = pool.norm1(last(x))
            q = query + pool.self_attn(query, x, x, need_weights=False)[0]
            return (q + pool.linear2(nn.functional.gelu(pool.linear1(pool.norm2(q))))).flatten().numpy()

    return features


def test_vjepa_is_made_of_pytorchs_layers(tmp_path: Path) -> None:
    wanted = vjepa(tmp_path / "vith16.pth.tar")
    ours = VJEPA(weights=tmp_path / "vith16.pth.tar")
    np.testing.assert_allclose(ours(clip(2)), wanted(clip(2)), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="takes 224x224"):
        ours(clip(2, side=96))
    (tmp_path / "ssv2-probe.pth.tar").unlink()
    with pytest.raises(UsageError, match=r"ssv2-probe\.pth\.tar"):
        VJEPA(weights=tmp_path / "vith16.pth.tar")


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content, said in (({"model": {"a": torch.ones(1)}}, "holds no patch_embed"), ([1], "cannot be read")):
        torch.save(content, path)
        with pytest.raises(UsageError, match=said):
            VideoMAE(weights=path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read as weights"):
        VideoMAE(weights=path)
    with pytest.raises(UsageError, match="missing"):
        VideoMAE()


def test_covariances_over_n_are_numpys() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), 0.7 * rng.normal(size=(20, 6)) + 0.3
    a, b = (np.cov(z.T, bias=True) for z in (x, y))
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y, ddof=0) == pytest.approx(wanted, rel=1e-9)
    weighted = FidAgainst(x, ddof=0).weighted(y, np.ones((1, 30)), np.ones((1, 20)))
    assert weighted[0] == pytest.approx(wanted, rel=1e-6)


def test_jedi_is_the_biased_mean_of_its_kernel() -> None:
    from sklearn.metrics.pairwise import polynomial_kernel

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(20, 6)) + 0.3
    kernels = [polynomial_kernel(a, b, degree=2, coef0=0).mean() for a, b in ((x, x), (y, y), (x, y))]
    assert jedi(x, y) == pytest.approx(100 * (kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("clips")
    for name, count in (("real", 8), ("ours", 5)):
        for i in range(count):
            folder = root / name / f"{i}"
            folder.mkdir(parents=True)
            for t, frame in enumerate(clip(10 * count + i, side=48) // (2 if name == "ours" else 1)):
                Image.fromarray(frame).save(folder / f"{t:02d}.png")
    return root / "real", root / "ours"


@pytest.mark.parametrize("name", ["fvd", "fvd_videomae", "jedi"])
def test_protocols_from_the_command_line(
    name: str, folders: tuple[Path, Path], i3d: tuple[Path, Planted], tmp_path: Path, capsys: Any
) -> None:
    """The row of the report is the reference's distance of the reference's features."""
    weights, output = tmp_path / "vith16.pth.tar", tmp_path / "report.json"
    if name == "fvd":
        weights = i3d[0]
    else:
        (vjepa if name == "jedi" else videomae)(weights)
    command = ["score-videos", "--real", str(folders[0]), "--generated", str(folders[1]), "--protocol", name]
    assert main([*command, "--weights", str(weights), "--output", str(output)]) == 0, capsys.readouterr().err
    made: Any = {"fvd": I3D, "fvd_videomae": VideoMAE, "jedi": VJEPA}[name](weights=weights)
    from evaluation.video.clips import Clips, ClipSet

    spec = Clips(frames=16, side=224 if name == "jedi" else None, filter="bilinear")
    x, y = (np.stack([made(frames) for _, frames in ClipSet(folder, spec)]) for folder in folders)
    row = read_report(output)["metrics"][0]
    if name == "jedi":
        kernels = [((a @ b.T / a.shape[1]) ** 2).mean() for a, b in ((x, x), (y, y), (x, y))]
        assert (row["name"], row["low"]) == (f"{made.prefix}JEDi", None)
        assert row["value"] == pytest.approx(100 * (kernels[0] + kernels[1] - 2 * kernels[2]), rel=1e-5)
        return
    a, b = ((z - z.mean(0)) / np.sqrt(len(z)) for z in (x, y))
    across = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * across
    assert row["name"] == f"{made.prefix}FVD"
    assert row["value"] == pytest.approx(wanted, rel=1e-5)
