"""Opens a model's tokenizer, tells one from another, and trains the pocket track's: byte-level BPE, saved as Hugging Face does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..common.errors import UserError, first_line

END_OF_TEXT = "<|endoftext|>"
FOLDER = "Expected tokenizer.json and tokenizer_config.json, as save_pretrained of a tokenizer writes them."
GGUF = (
    "Expected a whole GGUF file with the fields tokenizer.ggml.model, tokenizer.ggml.tokens and tokenizer.ggml.merges (or "
    "tokenizer.ggml.scores). Convert the model again, with its tokenizer, or bring it as a folder of safetensors with tokenizer.json."
)


def open_tokenizer(folder: Path, gguf: str = "") -> Any:
    """The tokenizer in a folder, or in a GGUF file there. It neither cuts texts nor fills them up, however it was saved."""
    place, more = (folder / gguf, {"gguf_file": gguf}) if gguf else (folder, {})
    try:
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **more)
        if backend := getattr(found, "backend_tokenizer", None):
            backend.no_truncation()
            backend.no_padding()
        said = found.decode(found("a", add_special_tokens=False)["input_ids"])
    except (KeyboardInterrupt, GeneratorExit, MemoryError, SystemExit):
        raise
    except BaseException as error:  # whatever a strange file makes the library say; its panics are no Exceptions
        raise UserError(f"No tokenizer in {place}: {first_line(error).rstrip('.')}. {GGUF if gguf else FOLDER}") from error
    if said == " a":
        raise UserError(
            f"The tokenizer in {place} puts a space before every text and gives it back with the text, so no text round-trips. "
            "Save it with add_prefix_space=False; ids of words after a space stay as they are."
        )
    return found


def fingerprint(tokenizer: Any) -> str:
    """Over the vocabulary, the merges and the rules as the tokenizer serialises them; without a fast backend, over what it can tell."""
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        said = backend.to_str()
    else:
        pieces = getattr(tokenizer, "sp_model", None)
        model = hashlib.sha256(pieces.serialized_model_proto()).hexdigest() if pieces else ""
        special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        said = json.dumps([type(tokenizer).__name__, model, sorted(tokenizer.get_vocab().items()), sorted(special.items())])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def train_tokenizer(texts: Sequence[str], folder: Path, vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """Train on `texts` and save to `folder`. Id 0 ends every document; any string round-trips byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast
