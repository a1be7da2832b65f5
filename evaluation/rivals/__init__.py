"""The paper's rivals, as samplers of models that are trained by the same program on the same tokens."""
