"""The laws of the plug-ins, to be run on a class of one's own; the pages of ``docs/how-to`` show each."""

from nuwa_lightning.testing.files import ArraySource, check_photo_source, check_writer
from nuwa_lightning.testing.local_decoder import check_local_decoder
from nuwa_lightning.testing.planning import check_context_pool, check_direction_controller
from nuwa_lightning.testing.text_encoder import check_text_encoder
from nuwa_lightning.testing.tokenizer import check_tokenizer

__all__ = [
    "ArraySource",
    "check_context_pool",
    "check_direction_controller",
    "check_local_decoder",
    "check_photo_source",
    "check_text_encoder",
    "check_tokenizer",
    "check_writer",
]
