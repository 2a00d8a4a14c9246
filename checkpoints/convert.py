"""Let a model out of the nest, and GPT-2 in.

    python checkpoints/convert.py to-hf CHECKPOINT OUTDIR
    python checkpoints/convert.py from-gpt2 FOLDER CHECKPOINT

Tangled from book/17_out_of_the_nest.md. Needs pip install -e .[hf]
"""

import json
import sys
from importlib import import_module, util
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
sys.path.append(f"{sys.path[0]}/..")  # where minigpt.py is
from minigpt import (SPECIAL_TOKENS, UNK, Checkpoint, MiniGPT, ModelConfig,
                     Tokenizer, Undrawn, load_checkpoint, rebuild, require)


# 17. Out of the nest (book/17_out_of_the_nest.md) ----------------------------

tokenizers = util.find_spec("tokenizers") and import_module("tokenizers")
NAMES = {"embeddings.token_embedding": "transformer.wte", "norm1": "ln_1",
         "embeddings.position_embedding": "transformer.wpe", "norm2": "ln_2",
         "attention.qkv": "attn.c_attn", "attention.proj": "attn.c_proj",
         "mlp.expand": "mlp.c_fc", "mlp.proj": "mlp.c_proj", "head": "lm_head",
         "blocks": "transformer.h", "norm": "transformer.ln_f"}
SIZES = dict(vocab_size="vocab_size", n_positions="context_length",
             n_embd="d_model", n_layer="n_layers", n_head="n_heads",
             n_inner="d_ff", embd_pdrop="dropout", attn_pdrop="dropout",
             resid_pdrop="dropout")
FIXED = dict(model_type="gpt2", activation_function="gelu_new",
             layer_norm_epsilon=1e-5, scale_attn_weights=True,
             scale_attn_by_inverse_layer_idx=False)


def theirs(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A tensor of ours as GPT-2 has it: layers (in, out), not (out, in)."""
    turn = name.endswith(("qkv.weight", "proj.weight", "expand.weight"))
    for ours, other in NAMES.items():
        name = f".{name}".replace(f".{ours}.", f".{other}.")[1:]
    return name, tensor.T.contiguous() if turn else tensor


def our_shape(config: dict) -> dict:
    """The shape that a config.json gives; MiniGPTError if it is no GPT-2's."""
    for key, value in FIXED.items():
        known = config.get(key, value)
        require(known == value, f"{key} is {known!r}, GPT-2 has {value!r}")
    return {ours: config.get(key) or 0 for key, ours in SIZES.items()}


def our_tensors(folder: Path, config: dict) -> dict[str, torch.Tensor]:
    """The tensors of a GPT-2 by our names; MiniGPTError if some are not."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):  # one, or several
        for name, tensor in load_file(path).items():
            inner = not name.startswith(("transformer.", "lm_head."))
            if not name.endswith((".attn.bias", ".attn.masked_bias")):
                found["transformer." * inner + name] = tensor
    require(found or not [*folder.glob("*.bin")], "its weights are a pickle, "
            "which may run any code: have transformers save it anew")
    if config.get("tie_word_embeddings", True):
        found["lm_head.weight"] = found.get("transformer.wte.weight")
    with torch.device("meta"), Undrawn():
        model = MiniGPT(ModelConfig(**our_shape(config)))
    due = {theirs(*pair)[0]: pair[0] for pair in model.named_parameters()}
    lacks, more = sorted(due.keys() - found), sorted(found.keys() - due)
    require(not lacks + more, f"tensors missing {lacks}, too many {more}")
    return {f"model.{name}": theirs(name, found[key])[1]
            for key, name in due.items()}


class BytePairs:
    """A tokenizer from elsewhere; `characters` is JSON: its end, and itself."""

    def __init__(self, characters: str):
        require(bool(tokenizers), "install tokenizers: pip install -e .[hf]")
        eos, file = json.loads(characters)
        self.characters, self.special = characters, (eos, ())
        self.whole = tokenizers.Tokenizer.from_str(file)
        self.vocab_size = self.whole.get_vocab_size()

    to_id = property(lambda _: require(False, "train reads characters, and the "
                     "model pieces of words: fine-tune it with transformers"))

    def encode(self, text: str, errors: str = "strict") -> torch.Tensor:
        """The ids of a text (n,), at least one."""
        last = self.special[0] % self.vocab_size
        return torch.tensor(self.whole.encode(text).ids or [last])

    def decode(self, ids) -> str:
        """The text of ids (n,); half a character is U+FFFD."""
        return self.whole.decode([int(i) for i in ids if i != self.special[0]])

    def stream(self, steps):
        """The text of ids that come bit by bit, in whole characters."""
        held = []
        for step in steps:
            held += step.tolist()
            if not self.decode(held).endswith("\ufffd"):
                yield self.decode(held)
                held = []
        yield self.decode(held)


def their_tokenizer(saved: Checkpoint):
    """The tokenizer of a checkpoint, as the library has it."""
    if not isinstance(saved.tokenizer, Tokenizer):
        return saved.tokenizer.whole
    names = [*SPECIAL_TOKENS, *saved.tokenizer.characters]
    ids = {name: i for i, name in enumerate(names)}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, names[UNK]))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    whole.decoder = tokenizers.decoders.Fuse()
    before = dict(id="before", ids=saved.before,
                  tokens=[names[i] for i in saved.before])
    whole.post_processor = tokenizers.processors.TemplateProcessing(
        "before $A", special_tokens=[before])
    return whole


def their_files(saved: Checkpoint) -> dict[str, dict]:
    """What stands in the texts of a folder, by the files' names."""
    whole, (eos, never) = their_tokenizer(saved), saved.tokenizer.special
    kinds = ("bos_token", "eos_token", "pad_token", "unk_token")
    ends = {kind: i for kind, i in zip(kinds, (eos, eos, *never)) if i >= 0}
    ids = {f"{kind}_id": i for kind, i in ends.items()}
    sizes = {k: getattr(saved.model.config, v) for k, v in SIZES.items()}
    sizes |= dict(architectures=["GPT2LMHeadModel"], tie_word_embeddings=False)
    return {"config": FIXED | sizes | ids,
            "generation_config": ids | {"suppress_tokens": never or None},
            "tokenizer": json.loads(whole.to_str()),
            "tokenizer_config": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "split_special_tokens": never != (),  # the text "<eos>" is text
                **{kind: whole.id_to_token(i) for kind, i in ends.items()}}}


def to_hf(source: Path, folder: Path) -> None:
    """Make a folder of a checkpoint, wholly or not at all."""
    saved = load_checkpoint(source)
    tensors = dict(theirs(*pair) for pair in saved.model.state_dict().items())
    card = ("---\nlibrary_name: transformers\n---\nA GPT-2, trained by MiniGPT "
            f"for {saved.step} steps (validation loss {saved.best_loss}).\n")
    with TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        for name, known in their_files(saved).items():
            (made / f"{name}.json").write_text(json.dumps(known, indent=2))
        (made / "README.md").write_text(card)
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        made.rename(folder)


def from_gpt2(folder: Path, path: Path) -> None:
    """Make a checkpoint of a folder that holds a GPT-2."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shape, tensors = our_shape(config), our_tensors(folder, config)
    if (folder / "tokenizer.json").exists():
        whole = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    else:
        whole = tokenizers.ByteLevelBPETokenizer.from_file(
            f"{folder}/vocab.json", f"{folder}/merges.txt")
        whole.add_special_tokens(["<|endoftext|>"])
    names = sorted(whole.get_vocab(), key=whole.token_to_id)
    size, eos = shape["vocab_size"], config.get("eos_token_id", 50256)
    require(len(names) == size, f"a tokenizer of {len(names)} ids, not {size}")
    if names == [*SPECIAL_TOKENS, *sorted("".join(names[3:]))]:  # it is ours
        characters, before = "".join(names[3:]), whole.encode("").ids
    else:
        eos = eos if eos in range(size) else -1
        characters, before = json.dumps([eos, whole.to_str()]), []
    meta = dict(step=0, best_loss=None, fingerprint="", before=before,
                characters=characters, model=shape, train={})
    rebuild(meta, tensors).save(path)


def main(words: list[str]) -> int:
    """Run a command line; return the exit status."""
    try:
        commands = {"to-hf": to_hf, "from-gpt2": from_gpt2}
        require(len(words) == 3 and words[0] in commands, f"give {__doc__}")
        require(not Path(words[2]).exists(), f"{words[2]} is there already")
        require(bool(tokenizers), "install tokenizers: pip install -e .[hf]")
        commands[words[0]](*map(Path, words[1:]))
        return 0
    except Exception as error:  # of a foreign folder, it may be any
        print("convert: error:", *str(error).split(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


# tangled: b4e6a9d99cee7ac81b3c58bc61c0f0af2ab268fb9f46f4e932f05b22be62b0ae
