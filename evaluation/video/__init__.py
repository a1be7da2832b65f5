"""Scores of folders of clips: Frechet and kernel distance of whole clips and of blocks of frames, flicker, motion."""
