"""``python -m nuwa_lightning``."""

from nuwa_lightning.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
