"""What the subcommands of ``python -m nuwa_lightning`` do."""
