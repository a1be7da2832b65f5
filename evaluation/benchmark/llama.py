"""Hugging Face's Llama with a static cache, as a contender: the same block parameters, code and context of our own.

Needs the package transformers (extra ``benchmark``).
"""

from typing import Any, Final

import torch
from torch import Tensor

from evaluation.benchmark.measuring import Contender
from evaluation.benchmark.ours import CODES, TOP_K, Size

CONTEXT: Final = 1024
LONGEST: Final = 256


class Llama(Contender):
    """Writes after a context of 1024 tokens, which is read beforehand.

    Args:
        name: under which it is reported.
        size: of the blocks.
        rows: sequences.
        generate: call ``model.generate``, as its users do; otherwise a bare loop of ours, which is less work a token.
        device: where it runs.
        dtype: of its numbers.
        compiled: let ``generate`` compile the step, as it does by itself for a static cache on a GPU.
    """

    def __init__(
        self,
        name: str,
        size: Size,
        *,
        rows: int = 1,
        generate: bool = True,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

        self.name, self.rows, self._generate, self._compiled = name, rows, generate, compiled
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=CODES,
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=CONTEXT + LONGEST,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
        self._model: Any = LlamaForCausalLM(config).to(device, dtype).eval().requires_grad_(False)
        self._cache: Any = StaticCache(config=config, max_cache_len=CONTEXT + LONGEST)
        self._ids = torch.randint(0, CODES, (rows, CONTEXT), device=device)
        with torch.inference_mode():
            self._model(self._ids, past_key_values=self._cache, use_cache=True)

    def start(self) -> None:
        """Go back to the end of the context, of which the last token is still to be read."""
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(CONTEXT - 1)

    def burst(self, steps: int) -> None:
        """Write tokens; what was written before is forgotten."""
        if self._generate:
            self._model.generate(
                self._ids,
                past_key_values=self._cache,
                max_new_tokens=steps,
                do_sample=True,
                top_k=TOP_K,
                use_cache=True,
                disable_compile=not self._compiled,
            )
            return
        token_R1 = self._ids[:, -1:]
        for _ in range(steps):
            logits_RK: Tensor = self._model(token_R1, past_key_values=self._cache, use_cache=True).logits[:, -1]
            best_RK, code_RK = logits_RK.topk(TOP_K)
            token_R1 = code_RK.gather(1, torch.multinomial(best_RK.softmax(dim=-1), 1))
