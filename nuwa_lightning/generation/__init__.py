"""From a plan and a model to tokens, and from tokens to pixels."""
