"""The two stages as LightningModules: the only places that know the training loop."""
