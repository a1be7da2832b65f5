"""Inputs as people have them, made on the spot, each with what must come of it."""

from __future__ import annotations

from tests.data.conftest import own_cache as own_cache
from tests.data.conftest import paint as paint
from tests.data.conftest import photo_folder as photo_folder
