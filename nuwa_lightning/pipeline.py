"""The front door: a trained model, its tokenizer and its decoder of videos as one object. Conventions are diffusers'.

Shape legend: N images, B canvases side by side, T frames, Y/X rows and columns.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nuwa_lightning.canvas.decoding import Crop, DecodedImage, Pixels, TileDecoder, decoded_frames
from nuwa_lightning.canvas.editing import FinishedCanvas
from nuwa_lightning.canvas.job import Generation, Order, Progress, facts_of
from nuwa_lightning.canvas.memory import MemoryCanvas
from nuwa_lightning.canvas.order_builder import ABLE, OrderBuilder, batched
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.fast_transformer import Precision
from nuwa_lightning.generation.local import LocalDecoder
from nuwa_lightning.generation.pretrained import Generator, load_generator, named_local_decoder, save_generator
from nuwa_lightning.generation.processes import Processes
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.hub import find_run, upload, write_card
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.pipeline_call import check_call, drawn, named_as_given
from nuwa_lightning.planning.direction import ArbitraryDirectionController, DirectionController
from nuwa_lightning.request import GenerationRequest
from nuwa_lightning.request_fields import Expansion, InputImage, Region, Size
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer, save_pixel_guided, save_tokenizer
from nuwa_lightning.tokenizers.tiling import Rectangle

OutputType = Literal["pil", "np", "pt", "tokens"]
_TYPES: Final = ("pil", "np", "pt", "tokens")
_NUMBERS: Final = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}


@dataclasses.dataclass(frozen=True, eq=False)
class PipelineOutput:
    """What a call made.

    Attributes:
        images: a Pillow image each (``output_type="pil"``), ``[N, Y, X, 3]`` in 0..1 (``"np"``), ``[N, 3, Y, X]`` in
            0..1 (``"pt"``); empty for videos and for ``"tokens"``.
        frames: of videos: Pillow images, a list for each, ``[N, T, Y, X, 3]``, or ``[N, T, 3, Y, X]``.
        canvases: the tokens of each; they can be exported, grown and made again in part.
    """

    images: Any
    frames: Any
    canvases: tuple[FinishedCanvas, ...]


@final
class NuwaInfinityPipeline:
    """Images of any size and videos of any length from a trained run.

    Example::

        pipe = NuwaInfinityPipeline.from_pretrained("runs/landscape")
        pipe(size=(4096, 512), seed=0).images[0].save("panorama.png")

    Args:
        generator: the model and how it was trained.
        tokenizer: the one whose tokens it learned.
        pixel_guided: decodes the frames of videos; None decodes each by itself.
        coarse: writes coarse plans, for a model that reads them; without it there are those of given images only.
        name: what messages call it.
        folder: where it was loaded from.

    Raises:
        UsageError: if they do not belong together.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        pixel_guided: PixelGuidedDecoder | None = None,
        *,
        coarse: Generator | None = None,
        name: str = "this pipeline",
        folder: Path | None = None,
    ) -> None:
        if tokenizer.fingerprint() != generator.tokenizer_fingerprint:
            hint = "its tokenizer is not the one that the model was trained with: copy that one there"
            raise UsageError("checkpoint", name, hint)
        if coarse is not None and coarse.tokenizer_fingerprint != generator.tokenizer_fingerprint:
            hint = "its coarse model was trained with another tokenizer: copy one that was trained with this there"
            raise UsageError("checkpoint", name, hint)
        if pixel_guided is not None:
            pixel_guided.check_tokenizer(tokenizer, option="checkpoint", value=name)
        self.generator, self.tokenizer, self.pixel_guided = generator, tokenizer, pixel_guided
        self.coarse, self.name, self.folder = coarse, name, folder
        self._number = "float32"
        self.threads = 1
        """Of the CPU, for the many small steps of decoding tokens."""
        self.processes: Processes | None = None
        """Those that generate together, ``Processes.join()``: all of them make the same calls, and get the same."""

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        own: Sequence[type[Any]] = (),
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> NuwaInfinityPipeline:
        """Load a run folder, a folder that :meth:`save_pretrained` wrote, or a repository of the Hugging Face hub.

        Nothing that lies in these files is executed; classes outside this package are used only if they are in ``own``.

        Args:
            checkpoint: the folder, ``landscape`` (the model that comes with this package), or ``OWNER/NAME``.
            own: pools, directions, local decoders, text encoders and tokenizers that the files may name.
            revision: a branch, tag or commit on the hub.
            token: of the hub.
            cache_dir: where the hub's files are kept.
            local_files_only: fetch nothing.

        Raises:
            UsageError: if something is missing, damaged or not allowed.
        """
        run = find_run(
            checkpoint, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls.from_folder(run, own=own, name=str(checkpoint))

    @classmethod
    def from_folder(
        cls, run: Path, *, own: Sequence[type[Any]] = (), name: str | None = None, tokenizer_folder: Path | None = None
    ) -> NuwaInfinityPipeline:
        """Load a folder that :func:`nuwa_lightning.hub.find_run` found; ``name`` is what messages call it."""
        generator = load_generator(run / "model", own=own)
        tokenizer = load_tokenizer(tokenizer_folder or run / "tokenizer", option="checkpoint", own=own)
        folder = run / "pixel_guided"
        guided = load_pixel_guided(folder, tokenizer=tokenizer, option="checkpoint") if folder.is_dir() else None
        folder = run / "coarse"
        coarse = load_generator(folder, own=own) if generator.plan is not None and folder.is_dir() else None
        return cls(generator, tokenizer, guided, coarse=coarse, name=name or str(run), folder=run)

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> None:
        """Write ``model``, ``tokenizer``, ``pixel_guided`` and ``coarse`` if there are any, and a card into a folder.

        Args:
            folder: where.
            dtype: of the weights on disk; float16 halves the folder. They are read as float32 again, and a VQGAN's
                encoder and codebook, which decide the tokens, stay in float32.

        Raises:
            UsageError: if the tokenizer is of a class that cannot be saved.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            save_tokenizer(Path(folder) / "tokenizer", self.tokenizer, dtype=dtype)
        except ValueError as error:
            raise UsageError("tokenizer", type(self.tokenizer).__name__, f"cannot be saved: {error}") from None
        save_generator(Path(folder) / "model", self.generator, dtype=dtype)
        if self.pixel_guided is not None:
            save_pixel_guided(Path(folder) / "pixel_guided", self.pixel_guided, dtype=dtype)
        if self.coarse is not None:
            save_generator(Path(folder) / "coarse", self.coarse, dtype=dtype)
        write_card(Path(folder), self.folder)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, commit_message: str | None = None
    ) -> str:
        """Put it into a repository of the Hugging Face hub, made if need be; returns the address of the commit."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private=private, token=token, message=commit_message)

    def to(
        self, device: torch.device | torch.dtype | str | None = None, dtype: torch.dtype | None = None
    ) -> NuwaInfinityPipeline:
        """Move it to a device, and choose how numbers are kept while generating; returns itself.

        Args:
            device: such as ``cuda``; or, in its place, the ``dtype`` alone.
            dtype: ``torch.float32``, ``torch.bfloat16`` or (on a CPU) ``torch.int8``, of weights and cache; what it was
                loaded with is not changed.
        """
        if isinstance(device, torch.dtype):
            if dtype is not None:
                raise UsageError("device", device, "is a number format, and so is dtype: give one of both")
            device, dtype = None, device
        if dtype is not None:
            if dtype not in _NUMBERS:
                raise UsageError("dtype", dtype, f"give one of {', '.join(map(str, _NUMBERS))}")
            self._number = _NUMBERS[dtype]
        if device is not None:
            coarse = self.coarse and self.coarse.model
            for part in (self.generator.model, self.tokenizer, self.pixel_guided, coarse):
                if isinstance(part, nn.Module):
                    try:
                        part.to(device)
                    except (RuntimeError, AssertionError, NotImplementedError) as error:
                        hint = f"cannot compute here ({str(error).splitlines()[0]}): give cpu, or one that is there"
                        raise UsageError("device", device, hint) from None
        return self

    # -- what is asked for --------------------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        size: tuple[int, int] | None = None,
        frames: int = 1,
        regions: Sequence[Region] = (),
        seed: int | None = None,
        generator: torch.Generator | None = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        output_type: OutputType = "pil",
        callback: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> PipelineOutput:
        """Generate images, or videos.

        Args:
            prompt: what is to be seen, or a list of it for an image each; None for none.
            size: width and height in pixels.
            frames: 2 or more make a video.
            regions: texts of parts of the canvas; ``prompt`` is for the rest.
            seed: equal seeds make equal images; None for any. The next image has the next seed.
            generator: instead, where the seed is drawn from.
            num_images_per_prompt: so many.
            guidance_scale: how strongly the text pulls; 1 as trained, None for 2.
            output_type: ``pil``, ``np``, ``pt``, or ``tokens`` for no pixels.
            callback: told of the progress after each wave of patches.
            **options: other fields of :class:`GenerationRequest`, such as ``temperature``, ``wrap``, or ``plan``: any
                image, as a file, a Pillow image or an array, that shows how the canvas is laid out.

        Raises:
            UsageError: naming the argument that does not fit.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        check_call(
            options,
            arguments=inspect.signature(self.__call__).parameters,
            size=size,
            seed=seed,
            generator=generator,
            num_images_per_prompt=num_images_per_prompt,
        )
        given: dict[str, Any] = dict(options)
        if isinstance(prompt, str) or not texts or regions:
            given["prompt"] = (*map(str, regions), *texts)
        else:
            given["prompt_each"] = tuple(text for text in texts for _ in range(num_images_per_prompt))
        if not texts and not regions and "unprompted" not in given:
            given["unprompted"] = True
        if given.get("plan") is not None:
            given["plan"] = InputImage.open(given["plan"], option="plan")
        if isinstance(given.get("local_decoder"), LocalDecoder | type):
            self.generator, given["local_decoder"] = self.generator.allowing(given["local_decoder"])
        if given.get("top_p", 1.0) is None:
            del given["top_p"]
        if seed is None:
            seed = secrets.randbits(32) if generator is None else drawn(generator)
            seed = seed if self.processes is None else self.processes.agree(seed)
        with named_as_given():
            request = GenerationRequest(
                size=None if size is None else Size(*size),
                frames=frames if frames != 1 else None,
                seed=seed,
                count=len(given.get("prompt_each", ())) or num_images_per_prompt,
                guidance=guidance_scale,
                **{"weights": self._number, "cache": self._number, **given},
            )
            return self.generate(request, output_type=output_type, callback=callback)

    def outpaint(
        self, image: Any, *, left: int = 0, right: int = 0, up: int = 0, down: int = 0, **options: Any
    ) -> PipelineOutput:
        """Generate what lies around an image; its own pixels stay as they are.

        Args:
            image: a Pillow image, an array ``[Y, X, 3]`` (uint8), or a file.
            left: so many pixels more on this side, and so on.
            right: see ``left``.
            up: see ``left``.
            down: see ``left``.
            **options: as for a call; ``blend``: over how many pixels the border fades.
        """
        return self(image=InputImage.open(image), expand=Expansion(left, right, up, down), **options)

    def inpaint(self, image: Any, mask: Any, **options: Any) -> PipelineOutput:
        """Generate an image anew where a mask of the same size is white; everything else stays as it is."""
        return self(image=InputImage.open(image, mask), **options)

    def animate(self, image: Any, *, frames: int = 40, **options: Any) -> PipelineOutput:
        """Generate a video whose first frame is the image."""
        return self(image=InputImage.open(image), task="animate", frames=frames, **options)

    # -- the one way of making it -------------------------------------------------------------------------------------

    def generate(
        self,
        request: GenerationRequest,
        *,
        output_type: OutputType = "pil",
        callback: Callable[[Progress], None] | None = None,
    ) -> PipelineOutput:
        """Generate what a request says, in memory; arguments as for a call.

        Raises:
            UsageError: if the model cannot, or the canvas is endless.
        """
        if output_type not in _TYPES:
            raise UsageError("output_type", output_type, f"choose {', '.join(_TYPES)}")
        renderer = self.renderer(request)
        request.log_notes()
        order = self.builder.order(request, direction=renderer.direction)
        if order.grid.endless:
            raise UsageError("size", request.canvas_size, "in memory a canvas has an end: give both sides a length")
        how = self.how(request, order)
        canvases: list[FinishedCanvas] = []
        for seeds in self.batches(request):
            batch = batched(order, seeds, first=seeds[0] - request.seed)
            store = MemoryCanvas(facts_of(batch, renderer, self.tokenizer, {}))
            for progress in Generation(batch, renderer, store):
                if callback is not None:
                    callback(progress)
            for number, seed in enumerate(seeds):
                one = {**how, "metadata": [{**metadata, "seed": seed} for metadata in how["metadata"]]}
                canvases.append(FinishedCanvas(store.split(number, how=one), self, request))
        pixels = [] if output_type == "tokens" else [list(canvas.pixels()) for canvas in canvases]
        shown = _shown(pixels, output_type, video=request.video) if pixels else []
        return PipelineOutput([] if request.video else shown, shown if request.video else [], tuple(canvases))

    def grow(
        self, canvas: FinishedCanvas, *, left: int = 0, right: int = 0, up: int = 0, down: int = 0, **options: Any
    ) -> FinishedCanvas:
        """Make a canvas larger, and return it; see :meth:`FinishedCanvas.grow`."""
        return canvas.grow(left=left, right=right, up=up, down=down, **options)

    def open_canvas(self, folder: str | os.PathLike[str], *, max_pixels: int | None = None) -> FinishedCanvas:
        """Return the canvas that ``generate --canvas`` or :meth:`FinishedCanvas.save` kept in a folder."""
        return FinishedCanvas.open(folder, self, max_pixels=max_pixels)

    def how(self, request: GenerationRequest, order: Order) -> dict[str, Any]:
        """Return how an image of a request is made, for its canvas and the metadata of its files."""
        version: str = sys.modules[__package__].__version__  # to import it would import all that it offers

        options = self.filled(request).to_options()
        metadata = {
            "program": "nuwa_lightning",
            "version": version,
            "task": request.task,
            "size": [order.size[1], order.size[0]],
            "seed": request.seed,
            "options": options,
            "checkpoint": {"path": self.name},
            "tokenizer": self.generator.tokenizer_fingerprint,
        }
        versions = {"nuwa-lightning": version, "torch": torch.__version__}
        return {"request": options, "metadata": [metadata], "versions": versions}

    def decode(self, tokens_TYX: Tensor, request: GenerationRequest) -> list[Pixels]:
        """Return the pixels ``[Y, X, 3]`` (uint8) of an image's tokens, or of each frame's, wherever they come from."""
        order = self.builder.order(request)
        (height, width), wrap = order.size, order.grid.wrap
        if height is None or width is None:
            raise UsageError("size", request.canvas_size, "in memory a canvas has an end: give both sides a length")
        crop = Crop((height, width), order.origin)
        if order.video is not None:
            return list(decoded_frames(iter(tokens_TYX), order.video.decoder, crop, finish=order.finish))

        def read(area: Rectangle) -> Tensor:
            return tokens_TYX[0, area.top : area.bottom, area.left : area.right]

        size = (tokens_TYX.shape[1], tokens_TYX.shape[2])
        tiles = TileDecoder(self.tokenizer, size, read, tile=order.tile, finish=order.finish, wrap=wrap)
        return [DecodedImage(tiles, crop).rows(0, height)]

    @staticmethod
    def batches(request: GenerationRequest) -> Iterator[tuple[int, ...]]:
        """Return the seeds of images that are generated side by side, batch by batch."""
        for first in range(0, request.count, request.max_rows):
            last = min(first + request.max_rows, request.count)
            yield tuple(range(request.seed + first, request.seed + last))

    def filled(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request that says how tokens are drawn: by the model's own ways where it said nothing."""
        given = {name: getattr(request, name) for name in ("temperature", "top_k", "top_p")}
        said = {k: getattr(self.generator.sampling, k) if value is None else value for k, value in given.items()}
        return request if given == said else dataclasses.replace(request, **said)

    def renderer(self, request: GenerationRequest) -> InfiniteRenderer:
        """Return the sampler that a request asks for.

        Raises:
            UsageError: if a number of it is out of range, or the model makes no videos.
        """
        if request.video and self.generator.frames < 2:
            way = ABLE["text video" if request.prompt or request.prompt_each else "video"]
            hint = f"the model of {self.name} was trained on images, not on videos: {way}"
            raise UsageError("task", request.task, hint)
        direction: DirectionController = self.generator.direction
        if request.order is not None:
            direction = ArbitraryDirectionController(request.order)  # type: ignore[arg-type]  # it checks
        decoder = self.generator.local_decoder
        if request.local_decoder is not None:
            decoder = named_local_decoder(request.local_decoder, self.generator.own)
        full = self.filled(request)
        return dataclasses.replace(self.generator, direction=direction, local_decoder=decoder).renderer(
            Sampling(full.temperature, full.top_k, full.top_p),  # type: ignore[arg-type]  # none of them is None
            max_rows=request.max_rows,
            precision=Precision(request.weights, request.cache),  # type: ignore[arg-type]
            threads=self.threads,
            processes=self.processes,
        )

    @property
    def builder(self) -> OrderBuilder:
        """What requests mean for its model."""
        return OrderBuilder(self.generator, self.tokenizer, self.pixel_guided, self.name, self.coarse)


def _shown(made: Sequence[list[Pixels]], output_type: OutputType, *, video: bool) -> Any:
    """Return pixels as the caller wants them."""
    if output_type == "pil":
        images = [[Image.fromarray(frame_YX3) for frame_YX3 in frames] for frames in made]
        return images if video else [image for frames in images for image in frames]
    stacked = np.stack([np.stack(frames) if video else frames[0] for frames in made])
    scaled = stacked.astype(np.float32) / 255
    return scaled if output_type == "np" else torch.from_numpy(np.moveaxis(scaled, -1, -3).copy())
