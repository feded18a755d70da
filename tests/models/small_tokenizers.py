"""Small tokenizers in the manner of real families, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = ["the river town is in the hills", "who was born near the town", "what is it, then?"] * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(
    special: Sequence[str] = ("<|endoftext|>",),
    added: Sequence[str] = (),
    *,
    bos: str = "",
    eos: str = "<|endoftext|>",
    template: str = "",
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2, Qwen and Llama 3 have. `bos`: the post-processor adds it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _finish(tokenizer, special, added, bos, eos, template)


def sentencepiece(
    special: Sequence[str] = ("<s>", "</s>"),
    added: Sequence[str] = (),
    *,
    bos: str = "<s>",
    eos: str = "</s>",
    template: str = "",
) -> PreTrainedTokenizerFast:
    """A BPE over words after U+2581, with bytes for the rest, as Llama 2 and Gemma have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["▁"],
        special_tokens=[f"<0x{code:02X}>" for code in range(256)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # The trainer adds the bytes as special tokens; in real vocabularies they are ordinary ones.
    whole = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    return _finish(tokenizer, special, added, bos, eos, template)


def _finish(
    tokenizer: Tokenizer,
    special: Sequence[str],
    added: Sequence[str],
    bos: str,
    eos: str,
    template: str,
) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, clean_up_tokenization_spaces=False
    )
    if bos:
        made.bos_token = bos
    if template:
        made.chat_template = template
    return made
