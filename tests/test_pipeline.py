"""The front door: each task in a few lines, the same pixels as the command line, folders and the hub, and strangers."""

from __future__ import annotations

import dataclasses
import json
import operator
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline, UsageError
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.pretrained import Generator, named_local_decoder
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.hub import FILES
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.request_fields import Expansion, InputImage, Region, Size
from tests.text.letters import Letters


def tiny(*, frames: int = 1, text: bool = False) -> NuwaInfinityPipeline:
    """Return a pipeline of random weights: patches of 8 x 8 pixels."""
    torch.manual_seed(0)
    config = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(0, 0), decoder_channels=(8, 8), decoder_blocks=(1, 1)
    )
    vqgan = VQGAN.build(config).eval()
    pool = NearbyContextPool((2 if frames > 1 else 0, 1, 1))
    size = TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1)
    model = PatchTransformer(
        16, 4, patch_size=(2, 2), embedding_extent=pool.embedding_extent, size=size, text_dim=8 if text else 0
    ).eval()
    model.set_codes(vqgan.codebook_KD)
    encoder = Letters(most=9) if text else None
    direction = ArbitraryDirectionController()
    generator = Generator(model, pool, direction, "mirrored", vqgan.fingerprint(), text_encoder=encoder, frames=frames)
    return NuwaInfinityPipeline(generator, vqgan)


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@pytest.fixture
def photo(sample_photos) -> Image.Image:
    return Image.fromarray(sample_photos["flower.jpg"][200:231, 300:345])


def bytes_of(image: Image.Image) -> bytes:
    return np.asarray(image).tobytes()


def test_importing_is_instant():
    code = (
        "import sys, nuwa_lightning as n; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); n.GenerationRequest"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_seeds_make_images(pipe):
    one, two = pipe(size=(41, 19), seed=3, num_images_per_prompt=2).images
    assert one.size == (41, 19)
    assert bytes_of(one) != bytes_of(two)
    assert bytes_of(pipe(size=(41, 19), seed=4).images[0]) == bytes_of(two)
    some = [pipe(size=(16, 16), generator=torch.Generator().manual_seed(5)).canvases[0].seed for _ in range(2)]
    assert some[0] == some[1]
    with pytest.raises(UsageError, match="seed: 1: "):
        pipe(seed=1, generator=torch.Generator())


def test_a_models_ways_of_drawing_are_the_usual_ones(pipe):
    own = NuwaInfinityPipeline(dataclasses.replace(pipe.generator, sampling=Sampling(0.5, 3, 0.8)), pipe.tokenizer)
    ways = {"temperature": 0.5, "top_k": 3, "top_p": 0.8}
    for said in ({}, {"top_k": 9}, {"temperature": 2.0, "top_p": 1.0}):
        one, other = (made(size=(64, 32), seed=1, **options) for made, options in ((own, said), (pipe, ways | said)))
        assert torch.equal(one.canvases[0].tokens_TYX, other.canvases[0].tokens_TYX)
    plain = pipe(size=(64, 32), seed=1).canvases[0]
    assert not torch.equal(own(size=(64, 32), seed=1).canvases[0].tokens_TYX, plain.tokens_TYX)


def test_tokens_are_the_samplers_and_pixels_the_tokenizers(pipe):
    made = pipe(size=(40, 24), seed=2, top_k=5, output_type="np")
    renderer = pipe.generator.renderer(Sampling(top_k=5))
    height, width = (side * pipe.tokenizer.downsample_factor for side in pipe.generator.model.patch_size)
    tokens_BYX = sample_tokens(renderer, PatchGrid(1, -(-24 // height), -(-40 // width)), seeds=[2])
    assert torch.equal(made.canvases[0].tokens_TYX, tokens_BYX)
    assert torch.equal(pipe(size=(40, 24), seed=2, top_k=5, output_type="tokens").canvases[0].tokens_TYX, tokens_BYX)
    decoded_YX3 = (pipe.tokenizer.decode(tokens_BYX)[0].permute(1, 2, 0)[:24, :40].numpy() + 1) / 2
    assert np.abs(made.images[0] - decoded_YX3).max() < 0.6 / 255
    assert pipe(size=(40, 24), seed=2, output_type="pt").images.shape == (1, 3, 24, 40)


@dataclasses.dataclass(frozen=True)
class Greedy(LocalDecoder):
    """The best token, or the k-th best."""

    k: int = 1

    def draws(self, tokens):
        return 0

    def decode(self, patches, sampling, uniform_RU):
        for place in range(patches.tokens_RN.shape[1]):
            patches.set_tokens([place], patches.logits([place]).topk(self.k).indices[:, :, -1])


def test_a_local_decoder_of_ones_own_writes_instead(tmp_path):
    pipe, path = tiny(), f"{__name__}.Greedy"
    best = pipe(size=(48, 32), seed=1, temperature=0).canvases[0].tokens_TYX
    with pytest.raises(UsageError, match=rf"^local_decoder: .*: choose Auto.*, or allow .*, `own=\[{path}\]`$"):
        pipe(size=(16, 16), local_decoder=path)
    pipe.save_pretrained(tmp_path / "run")
    loaded = NuwaInfinityPipeline.from_pretrained(tmp_path / "run", own=[Greedy])
    for made, decoder in ((loaded, path), (tiny(), Greedy), (pipe, Greedy())):
        assert torch.equal(made(size=(48, 32), seed=1, local_decoder=decoder).canvases[0].tokens_TYX, best)
    second = pipe(size=(48, 32), seed=1, local_decoder=Greedy(2), output_type="tokens").canvases[0]
    assert not torch.equal(second.tokens_TYX, best)
    second.save(tmp_path / "kept").close()
    kept = loaded.open_canvas(tmp_path / "kept")
    kept.close()
    again = loaded.generate(kept.request, output_type="tokens").canvases[0]
    assert torch.equal(again.tokens_TYX, second.tokens_TYX)


def test_local_decoders_go_by_their_whole_names():
    class JacobiLocalDecoder(Greedy):
        pass

    class Picky(Greedy):
        def __init__(self):
            raise ValueError("no")

    path = f"{__name__}.test_local_decoders_go_by_their_whole_names.<locals>"
    assert type(named_local_decoder(f"{path}.JacobiLocalDecoder", [JacobiLocalDecoder])) is JacobiLocalDecoder
    ours = named_local_decoder("JacobiLocalDecoder", [JacobiLocalDecoder])
    assert ours == named_local_decoder("nuwa_lightning.generation.local.JacobiLocalDecoder")
    assert type(ours).__module__ == "nuwa_lightning.generation.local.jacobi"
    for name, own, words in (
        ("my.JacobiLocalDecoder", [JacobiLocalDecoder], r"choose .*, or allow one of your own, `own=\[my\.Jacobi"),
        (f"{path}.Picky", [Picky], r"cannot be made \(ValueError: no\)"),
        ("{nonsense", (), "cannot be made"),
    ):
        with pytest.raises(UsageError, match=rf"^local_decoder: .*{words}"):
            named_local_decoder(name, own)


def test_batches_do_not_change_images(pipe):
    together = pipe(size=(24, 16), seed=0, num_images_per_prompt=5).images
    apart = pipe(size=(24, 16), seed=0, num_images_per_prompt=5, max_rows=2).images
    assert list(map(bytes_of, together)) == list(map(bytes_of, apart))


def test_progress_is_told(pipe):
    told = []
    pipe(size=(32, 32), seed=0, callback=told.append)
    height, width = (side * pipe.tokenizer.downsample_factor for side in pipe.generator.model.patch_size)
    assert told[-1].patches == (32 // height) * (32 // width)


def test_given_pixels_stay(pipe, photo):
    wider = np.asarray(pipe.outpaint(photo, left=10, down=7, seed=1).images[0])
    assert wider.shape == (38, 55, 3)
    assert np.array_equal(wider[:31, 10:], np.asarray(photo))
    mask = np.zeros((31, 45), bool)
    mask[5:20, 12:30] = True
    painted = np.asarray(pipe.inpaint(photo, mask, seed=1).images[0])
    assert np.array_equal(painted[~mask], np.asarray(photo)[~mask])
    assert not np.array_equal(painted, np.asarray(photo))


def test_videos(photo):
    pipe = tiny(frames=3)
    (frames,) = pipe.animate(photo, frames=4, seed=0).frames
    assert [frame.size for frame in frames] == [photo.size] * 4
    assert bytes_of(frames[0]) == bytes_of(photo)
    made = pipe(size=(16, 16), frames=3, seed=0, output_type="pt")
    assert made.frames.shape == (1, 3, 3, 16, 16)
    assert made.images == []


def test_texts():
    pipe = tiny(text=True)
    both = pipe(["a lake", "dunes"], size=(24, 16), seed=0).images
    assert bytes_of(both[0]) == bytes_of(pipe("a lake", size=(24, 16), seed=0).images[0])
    assert len(pipe(["a", "b"], num_images_per_prompt=2, size=(16, 16), seed=0, output_type="tokens").canvases) == 4
    region = Region(0, 0, 16, 16, "a lake")
    pieces = pipe("dunes", regions=[region], size=(32, 16), seed=0, output_type="tokens").canvases[0].request
    assert (pieces.regions, pieces.text) == ((region,), "dunes")
    with pytest.raises(UsageError, match="reads no text"):
        tiny()("a lake")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (0, 4)}, "size: 0x4"),
        ({"frames": 3}, "trained on images"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"wrap": "x", "size": (33, 16)}, "a closed side is a multiple of"),
        ({"output_type": "gif"}, "output_type: gif"),
        ({"size": (None, 16)}, "in memory a canvas has an end"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: 0: give a whole number from 1 up"),
        ({"prompt": ["a", "b"], "num_images_per_prompt": -1}, "num_images_per_prompt: -1"),
        ({"num_images_per_prompt": 200_000}, "num_images_per_prompt: 200000: give at most 100000"),
        ({"guidance_scale": 3.0}, "guidance_scale: 3.0: there is no text"),
        ({"prompt": "a lake", "guidance_scale": -1.0}, "guidance_scale: -1.0: give a number from 0 to"),
        ({"generator": [torch.Generator()]}, "generator: list: give one torch.Generator"),
        ({"order": "alpha"}, "order: alpha"),
    ],
)
def test_what_does_not_fit_is_one_line(pipe, options, words):
    with pytest.raises(UsageError) as error:
        pipe(**options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sead": 0}, "sead: 0: there is no such argument; did you mean seed?"),
        ({"guidance": 3.0}, "guidance: 3.0: there is no such argument; did you mean guidance_scale?"),
        ({"height": 64}, "height: 64: there is no such argument; did you mean size=(width, height)?"),
        ({"xyzzy": 1}, "xyzzy: 1: there is no such argument; choose blend, cache, "),
        ({"size": 256}, "size: 256: give width and height in pixels, such as (1024, 512)"),
        ({"size": (1, 2, 3)}, "size: (1, 2, 3): give width and height"),
    ],
)
def test_an_argument_that_is_none_is_one_line(pipe, options, words):
    with pytest.raises(UsageError) as caught:
        pipe(**{"size": (32, 16), **options})
    assert str(caught.value).startswith(words)


def test_a_folder_comes_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    again = NuwaInfinityPipeline.from_pretrained(tmp_path / "saved")
    assert bytes_of(again(size=(24, 24), seed=1).images[0]) == bytes_of(pipe(size=(24, 24), seed=1).images[0])
    name = json.loads((tmp_path / "saved" / "model" / "config.json").read_text())["context_pool"]["name"]
    assert name == "nuwa_lightning.planning.context.nearby.NearbyContextPool"


def test_a_folder_of_half_the_size(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model" / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    assert len({path.stat().st_mode for path in (tmp_path / "half").glob("*/*.*")}) == 1
    half = NuwaInfinityPipeline.from_pretrained(tmp_path / "half")
    assert half.tokenizer.fingerprint() == pipe.tokenizer.fingerprint()
    for part in ("generator.model", "tokenizer.decoder"):
        whole, rounded = (operator.attrgetter(part)(each).state_dict() for each in (pipe, half))
        assert all(torch.equal(value.half().float(), rounded[name]) for name, value in whole.items())


def test_numbers_of_bfloat16(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = NuwaInfinityPipeline.from_pretrained(tmp_path).to("cpu", torch.bfloat16)
    assert half(size=(16, 16), seed=0, output_type="tokens").canvases[0].request.weights == "bfloat16"
    with pytest.raises(UsageError, match="dtype"):
        half.to(dtype=torch.float64)
    alone = NuwaInfinityPipeline.from_pretrained(tmp_path).to(torch.bfloat16)
    images = [made(size=(24, 16), seed=0).images[0] for made in (alone, half)]
    assert bytes_of(images[0]) == bytes_of(images[1])
    assert {tensor.dtype for tensor in alone.tokenizer.parameters()} == {torch.float32}
    with pytest.raises(UsageError, match="device"):
        half.to(torch.bfloat16, torch.int8)


@pytest.mark.parametrize(
    "name",
    ["os.system", "nuwa_lightning.hub.os", "nuwa_lightning.planning.context.ContextPool.select", "builtins.exec",
     "nuwa_lightning.cli.main", "nuwa_lightning.generation.local.MaskedLocalDecoder", "tests.strategies.MyPool"],
)  # fmt: skip
def test_no_other_class_is_reached(pipe, tmp_path, name):
    pipe.save_pretrained(tmp_path)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["context_pool"]["name"] = name
    path.write_text(json.dumps(config))
    before = set(sys.modules)
    with pytest.raises(UsageError, match="own: "):
        NuwaInfinityPipeline.from_pretrained(tmp_path)
    assert {module for module in set(sys.modules) - before if not module.startswith("nuwa_lightning.")} == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_every_task_in_fewer_bits(dtype, photo):
    """Given pixels stay, a kept canvas grows, and all of it is the same again."""
    pipe = tiny().to("cpu", dtype)
    wide = pipe.outpaint(photo, left=10, down=7, seed=1)
    assert bytes_of(wide.images[0].crop((10, 0, 55, 31))) == bytes_of(photo)
    canvas = pipe.grow(wide.canvases[0], right=9, up=5).redo((0, 0, 8, 8), seed=4)
    assert next(canvas.pixels()).shape == (43, 64, 3)
    mask = Image.new("L", photo.size)
    mask.paste(255, (8, 8, 24, 24))
    assert pipe.inpaint(photo, mask, seed=1).images[0].getpixel((0, 0)) == photo.getpixel((0, 0))
    told = tiny(text=True).to(dtype=dtype)
    texts = ["a lake", "snow"]
    made = told(texts, size=(24, 16), seed=2, guidance_scale=3)
    assert bytes_of(made.images[1]) == bytes_of(told(texts, size=(24, 16), seed=2, guidance_scale=3).images[1])
    region = Region(0, 0, 16, 16, "fog")
    assert told("a lake", regions=[region], size=(24, 16), seed=2).images[0].size == (24, 16)
    (frames,) = tiny(frames=3).to("cpu", dtype).animate(photo, frames=4, seed=1).frames
    assert len(frames) == 4
    assert bytes_of(frames[0]) == bytes_of(photo)


def test_the_hub(pipe, tmp_path, monkeypatch):
    """What goes up comes down, and nothing but JSON and safetensors does."""
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message) -> SimpleNamespace:
            for pattern in allow_patterns:
                for path in Path(folder_path).glob(pattern):
                    to = hub / repo_id / path.relative_to(folder_path)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(path.read_bytes())
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    def download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        assert allow_patterns == list(FILES)
        if not (hub / name).is_dir():
            raise LocalEntryNotFoundError("offline")
        return str(hub / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert pipe.push_to_hub("me/landscapes") == "https://hub/me/landscapes"
    assert {path.suffix for path in hub.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md"}
    again = NuwaInfinityPipeline.from_pretrained("me/landscapes")
    assert bytes_of(again(size=(16, 16), seed=1).images[0]) == bytes_of(pipe(size=(16, 16), seed=1).images[0])
    with pytest.raises(UsageError, match="checkpoint: me/nothing: is no folder here"):
        NuwaInfinityPipeline.from_pretrained("me/nothing")


def test_the_card_tells_what_the_record_says(pipe, tmp_path):
    run = tmp_path / "run"
    pipe.save_pretrained(run)
    assert "How it was trained is not recorded." in (run / "README.md").read_text()
    (run / "README.md").unlink()
    record = {"seed": 5, "versions": {"torch": "9.9"}, "ended": {"by": "finished", "step": 77}}
    (run / "record.json").write_text(json.dumps({**record, "data": {"source": "a|b", "train": ["x", "y"]}}))
    NuwaInfinityPipeline.from_pretrained(run).save_pretrained(tmp_path / "shared")
    text = (tmp_path / "shared" / "README.md").read_text()
    for part in (
        "a/b: 2 of it",
        "77 (finished), seed 5",
        "torch 9.9",
        "NearbyContextPool(extent=[0, 1, 1])",
        "width 16",
    ):
        assert part in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["pipeline_tag"] == "unconditional-image-generation"
    assert json.loads((tmp_path / "shared" / "record.json").read_text())["seed"] == 5
    (tmp_path / "shared" / "README.md").write_text("by hand")
    (tmp_path / "shared" / "record.json").write_text("[")
    NuwaInfinityPipeline.from_pretrained(tmp_path / "shared").save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "README.md").read_text() == "by hand"
    for damaged in ("[", '{"data": 3, "ended": [], "versions": null}'):
        (run / "record.json").write_text(damaged)
        NuwaInfinityPipeline.from_pretrained(run).save_pretrained(tmp_path / "damaged")


def test_the_command_line_makes_the_same(pipe, photo, tmp_path, monkeypatch):
    from nuwa_lightning.cli import main

    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("run")
    photo.save("in.png")
    Path("request.yaml").write_text("size: 40x24\nseed: 5\ncheckpoint: run\n")
    assert main(["generate", "--config", "request.yaml", "--temperature", "0.7", "--output", "a.png"]) == 0
    assert bytes_of(Image.open("a.png")) == bytes_of(pipe(size=(40, 24), seed=5, temperature=0.7).images[0])
    options = ["--checkpoint", "run", "--image", "in.png", "--expand", "left=9", "--seed", "2", "--output", "b.png"]
    assert main(["generate", *options]) == 0
    assert bytes_of(Image.open("b.png")) == bytes_of(pipe.outpaint("in.png", left=9, seed=2).images[0])


def test_deep_gray_in_memory_is_scaled_and_said(pipe, caplog):
    ramp = np.linspace(0, 65535, 31 * 45).astype(np.uint16).reshape(31, 45)
    made = np.asarray(pipe.outpaint(Image.fromarray(ramp), left=9, seed=2).images[0])
    assert np.abs(made[:, 9:] - ramp[..., None] / 257).max() <= 0.51
    assert caplog.messages == ["image: samples of more than 8 bits become 8"]


def test_a_request_comes_back(photo, tmp_path):
    photo.save(tmp_path / "in.png")
    image = InputImage.open(tmp_path / "in.png")
    for request in (
        GenerationRequest(size=Size(33, None), seed=3, waves=2),
        GenerationRequest(prompt=("0,0,9,9: a lake", "dunes"), guidance=3.0, frames=4),
        GenerationRequest(image=image, expand=Expansion(left=3)),
    ):
        said = json.loads(json.dumps(request.to_options()))
        again = GenerationRequest.from_options(said)
        assert again.to_options() == said
        assert (again.regions, again.text, again.canvas_size) == (request.regions, request.text, request.canvas_size)
    with pytest.raises(UsageError, match="wings: 2"):
        GenerationRequest.from_options({"wings": 2})


def test_the_notebook_runs(pipe, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("landscape")
    names: dict[str, object] = {}
    for cell in json.loads((repository / "docs" / "quickstart.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    image, wider, painted, around = (np.asarray(names[n]) for n in ("image", "wider", "painted", "around"))
    assert (image.shape, wider.shape, around.shape) == ((128, 256, 3), (160, 320, 3), (128, 256, 3))
    assert np.array_equal(wider[:128, 64:], image)
    assert np.array_equal(painted[64:], image[64:])
