"""``python -m evaluation crops``: crops of photographs as files, the same ones every time."""

import sys
from dataclasses import dataclass
from pathlib import Path

ABOUT = "Write the real crops of a protocol as files, to look at or to score elsewhere."
EXAMPLES = "  python -m evaluation crops --photos landscape --output real"


@dataclass(frozen=True)
class Options:
    """What to cut.

    Args:
        photos: folder of photographs, or "landscape" for the default ones
        output: folder to make
        protocol: a YAML file, or the name of one in evaluation/protocols
        set: change a setting of the protocol, such as real.count=50; may be repeated
    """

    photos: str
    output: Path
    protocol: str = "landscape"
    set: tuple[str, ...] = ()


def run(options: Options, command: str) -> int:
    """Cut and write."""
    from evaluation.images import write_crops
    from evaluation.protocol import load_protocol
    from evaluation.real_images import real_images

    spec = load_protocol(options.protocol, options.set).real
    made = write_crops(real_images(options.photos, spec, option="--photos"), options.output)
    sys.stdout.write(f"{made} crops in {options.output}\n")
    return 0
