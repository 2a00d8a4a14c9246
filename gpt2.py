"""Let a model out of the nest, and GPT-2 in.

    python gpt2.py to-hf CHECKPOINT OUTDIR        a folder for transformers
    python gpt2.py from-gpt2 FOLDER CHECKPOINT    a checkpoint of such a folder
    python gpt2.py generate --checkpoint FILE     write with it, as minigpt does

Tangled from book/18_out_of_the_nest.md. Needs pip install -e ".[hf]"
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module, util
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from minigpt import (COMMANDS, PAD, SPECIAL_TOKENS, TOKENIZERS, UNK, Checkpoint,
                     MiniGPT, MiniGPTError, ModelConfig, Tokenizer,
                     WithoutDrawing, brief, load_checkpoint, main, rebuild,
                     require, run_command)


# 18. Out of the nest (book/18_out_of_the_nest.md) ----------------------------

tokenizers = util.find_spec("tokenizers") and import_module("tokenizers")
WITHOUT = 'install tokenizers: pip install -e ".[hf]"'
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
    require(bool(found), f"{folder} has no weights: add its *.safetensors")
    if config.get("tie_word_embeddings", True):
        found["lm_head.weight"] = found.get("transformer.wte.weight")
    with torch.device("meta"), WithoutDrawing():
        model = MiniGPT(ModelConfig(**our_shape(config)))
    due = {theirs(*pair)[0]: pair[0] for pair in model.named_parameters()}
    lacks, more = sorted(due.keys() - found), sorted(found.keys() - due)
    require(not lacks + more, f"tensors missing {lacks}, too many {more}")
    return {f"model.{name}": theirs(name, found[key])[1]
            for key, name in due.items()}


TIDY = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't",
        " 'm": "'m", " 's": "'s", " 've": "'ve", " 're": "'re"}


def tidied(text: str) -> str:
    """A text without the spaces that pieces of words leave in English."""
    for old, new in TIDY.items():
        text = text.replace(old, new)
    return text


def settled(text: str, tidy: bool) -> int:
    """How many characters no token that follows can change."""
    return len(text[:-6 if tidy else None].rstrip("\ufffd"))


def growing(words, ids: Iterable[int], read: list[int]) -> Iterator[str]:
    """The text of ids that come one by one, after those that were read.

    It ends before the first id that ends a text. What may change waits.
    """
    held, shown = read, len(words.decode(read))
    for i in ids:
        if i in words.known["ends"]:
            break
        if i in words.silent:
            continue
        held.append(i)
        if re.fullmatch("<0x[0-9A-F]{2}>", words.whole.id_to_token(i) or ""):
            continue  # a run of bytes, which may go on
        text = words.decode(held)
        sure = settled(text, words.known["tidy"])
        yield text[shown:sure]
        shown = max(shown, sure)
        rest = words.decode(held[-64:]) if len(held) >= 128 else ""
        if rest and rest.endswith(text[shown:]):
            held, shown = held[-64:], shown + len(rest) - len(text)
    yield words.decode(held)[shown:]


class ForeignTokenizer:
    """A tokenizer from elsewhere. `characters` is JSON: an id that ends a text
    (-1: none does), the library's file, and what is not as in `known`."""
    kind = "tokenizers"  # the library that reads it

    def __init__(self, characters: str):
        require(bool(tokenizers), WITHOUT)
        end, file, *more = json.loads(characters)
        self.whole = tokenizers.Tokenizer.from_str(file)
        words = {*self.whole.get_vocab().values()}
        self.known = dict(rows=max(words) + 1, ends=[end], start=end, never=[],
                          tidy=False, split=False) | dict(*more)
        self.characters, self.vocab_size = characters, self.known["rows"]
        empty = {*range(self.vocab_size)} - words
        self.eos = end
        self.never = tuple(sorted(empty.union(self.known["never"])))
        added = self.whole.get_added_tokens_decoder().items()
        self.silent = {*self.known["ends"]} | {i for i, t in added if t.special}
        self.whole.encode_special_tokens = self.known["split"]

    def encode(self, text: str, errors: str = "strict") -> torch.Tensor:
        """The ids of a text (n,), at least one; MiniGPTError if it has none."""
        try:
            ids = self.whole.encode(text).ids
        except Exception as error:  # the library has no other kind
            raise MiniGPTError(f"the model cannot read the text ({error}): "
                               "choose another") from None
        return torch.tensor(ids or [max(self.known["start"], 0)])

    def decode(self, ids) -> str:
        """The text of ids (n,); none of special ones, half a letter U+FFFD."""
        ids = [int(i) for i in ids if int(i) not in self.silent]
        text = self.whole.decode(ids)
        return tidied(text) if self.known["tidy"] else text

    def stream(self, steps: Iterable, read: Iterable[int] = ()):
        """The text of ids that come bit by bit, after those that were read."""
        ids = (int(i) for step in steps for i in step)
        return growing(self, ids, [*read])


TOKENIZERS[ForeignTokenizer.kind] = ForeignTokenizer


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
    whole, eos = their_tokenizer(saved), saved.tokenizer.eos
    known = dict(ends=[eos], start=eos, pad=PAD, unk=UNK, split=True,
                 tidy=False, special=(PAD, eos, UNK))
    if not isinstance(saved.tokenizer, Tokenizer):
        known |= saved.tokenizer.known | dict(pad=eos, unk=-1)
        known["special"] = saved.tokenizer.silent
    ids = dict(bos=known["start"], eos=eos, pad=known["pad"], unk=known["unk"])
    ids = {kind: i for kind, i in ids.items() if i >= 0}
    names = {f"{kind}_token": whole.id_to_token(i) for kind, i in ids.items()
             if i in known["special"]}
    ids = {f"{kind}_token_id": i for kind, i in ids.items()}
    if len(known["ends"]) > 1:
        ids["eos_token_id"] = known["ends"]
    sizes = {k: getattr(saved.model.config, v) for k, v in SIZES.items()}
    sizes |= dict(architectures=["GPT2LMHeadModel"], tie_word_embeddings=False)
    return {"config": FIXED | sizes | ids,
            "generation_config": ids | {
                "suppress_tokens": saved.tokenizer.never or None},
            "tokenizer": json.loads(whole.to_str()),
            "tokenizer_config": names | {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": known["tidy"],
                "split_special_tokens": known["split"],  # "<eos>" is text
                "padding_side": "left"}}  # so that a text goes on at its end


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT-2, by its own names, and the shape of each."""
    V, C, d_ff = config.vocab_size, config.d_model, config.d_ff
    layers = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "ln_1": (C,),
              "mlp.c_fc": (C, d_ff), "mlp.c_proj": (d_ff, C), "ln_2": (C,)}
    layers = {f"h.{i}.{name}": shape for i in range(config.n_layers)
              for name, shape in layers.items()} | {"ln_f": (C,)}
    found = {"transformer.wte.weight": (V, C), "lm_head.weight": (V, C),
             "transformer.wpe.weight": (config.context_length, C)}
    for name, shape in layers.items():
        found[f"transformer.{name}.weight"] = shape
        found[f"transformer.{name}.bias"] = shape[-1:]
    return found


def gpt2(tensors: dict, ids: torch.Tensor, heads: int) -> torch.Tensor:
    """Logits (T, V) of ids (T,), as a GPT-2 with these tensors has them."""
    def of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ of(name)[0] + of(name)[1]

    table, places = (tensors[f"transformer.{n}.weight"] for n in ("wte", "wpe"))
    x = table[ids] + places[:len(ids)]  # (T, C)
    size, layer = x.shape[-1:], 0
    while (h := f"transformer.h.{layer}") + ".ln_1.bias" in tensors:
        y = linear(F.layer_norm(x, size, *of(h + ".ln_1")), h + ".attn.c_attn")
        q, k, v = (z.unflatten(1, (heads, -1)).transpose(0, 1)
                   for z in y.chunk(3, 1))  # (T, 3C) -> (H, T, D), three times
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(0, 1).flatten(1)  # (H, T, D) -> (T, C)
        x = x + linear(y, h + ".attn.c_proj")
        y = linear(F.layer_norm(x, size, *of(h + ".ln_2")), h + ".mlp.c_fc")
        x = x + linear(F.gelu(y, approximate="tanh"), h + ".mlp.c_proj")
        layer += 1
    x = F.layer_norm(x, size, *of("transformer.ln_f"))
    return x @ tensors["lm_head.weight"].T  # (T, C) -> (T, V)


def as_gpt2(model: MiniGPT) -> dict[str, torch.Tensor]:
    """A model's tensors as a GPT-2's; MiniGPTError if it is none."""
    tensors = dict(theirs(*pair) for pair in model.state_dict().items())
    has = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    due = shapes(model.config)
    for name in sorted(due.keys() | has.keys()):
        ours, shape = has.get(name, "missing"), due.get(name, "missing")
        require(ours == shape, f"the model is no GPT-2: its {name} is {ours}, "
                f"in a GPT-2 it is {shape}")
    ids = torch.arange(model.config.context_length) % model.config.vocab_size
    with torch.inference_mode():
        ours = model.eval()(ids[None])[0]
        far = (ours - gpt2(tensors, ids, model.config.n_heads)).abs().max()
    require(bool(far <= 3e-5 * ours.abs().max()), "the model is no GPT-2: with "
            f"the same tensors, logits differ by {far:.2g}")
    return tensors


def to_hf(source: Path, folder: Path) -> str:
    """Make a folder of a checkpoint, wholly or not at all; say what it is."""
    saved = load_checkpoint(source)
    tensors = {n: t.clone() for n, t in as_gpt2(saved.model).items()}
    card = "---\nlibrary_name: transformers\n---\nA GPT-2, written by MiniGPT"
    if saved.step:
        card += f" after {saved.step} steps (validation loss {saved.best_loss})"
    with TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, folder.name)
        made.mkdir()
        for name, known in their_files(saved).items():
            (made / f"{name}.json").write_text(json.dumps(known, indent=2))
        (made / "README.md").write_text(card + ".\n")
        save_file(tensors, made / "model.safetensors", {"format": "pt"})
        made.rename(folder)
    return (f"{folder} is a GPT-2 for transformers, in Python: "
            f"pipeline('text-generation', {str(folder)!r})")


KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
END = "<|endoftext|>"


def read_json(path: Path, needed: bool = False) -> dict:
    """What is in a file, or {} if there is none and none is needed."""
    require(path.exists() or not needed, f"{path} is missing: add it")
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise MiniGPTError(f"{path} is no JSON ({error}): fetch it anew")


def added(token: str | dict):
    """A token that is looked for in a text as it stands, for the library."""
    known = {"content": token} if isinstance(token, str) else token
    traits = ("content", "single_word", "lstrip", "rstrip", "normalized",
              "special")
    return tokenizers.AddedToken(**{k: v for k, v in known.items()
                                    if k in traits})


def with_meaning(folder: Path, said: dict) -> list:
    """The tokens of a folder that have a meaning, each after smaller ids."""
    named = [said.get(f"{kind}_token") for kind in KINDS] + [END]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = said.get(key) or []
        named += more.values() if isinstance(more, dict) else more
    named = [added(token) for token in named if token]
    special = {token.content: token for token in named}
    ids = {int(i): added(token) for i, token in
           said.get("added_tokens_decoder", {}).items()}
    for name, i in read_json(folder / "added_tokens.json").items():
        ids.setdefault(i, added(name))
    found = {}
    for token in [*(ids[i] for i in sorted(ids)), *special.values()]:
        token.special |= token.content in special
        found.setdefault(token.content, token)
    return [*found.values()]


def their_words(folder: Path, said: dict, rows: int):
    """The tokenizer of a folder, which reads a prompt whole and as it is."""
    lists, file = ("vocab.json", "merges.txt"), folder / "tokenizer.json"
    if file.exists():
        whole = tokenizers.Tokenizer.from_str(json.dumps(read_json(file)))
    else:
        for name in lists:
            require((folder / name).exists(), f"{folder} has no {name} (and no "
                    "tokenizer.json): add it")
        words = tokenizers.ByteLevelBPETokenizer.from_file(
            *(f"{folder}/{name}" for name in lists),
            add_prefix_space=said.get("add_prefix_space", False))
        whole = tokenizers.Tokenizer.from_str(words.to_str())
    whole.no_truncation()
    whole.no_padding()
    there = {t.content for t in whole.get_added_tokens_decoder().values()}
    for token in with_meaning(folder, said):
        room = whole.get_vocab_size() < rows and token.content != END
        known = whole.token_to_id(token.content) is not None
        if token.content not in there and (known or room):
            whole.add_tokens([token])
    if not file.exists():
        ends = [said.get(f"{kind}_token") or END for kind in ("bos", "eos")]
        ends = [added(token).content for token in ends]
        first, last = ([name] * bool(said.get(f"add_{kind}_token"))
                       for name, kind in zip(ends, ("bos", "eos")))
        whole.post_processor = tokenizers.processors.TemplateProcessing(
            [*first, "$A", *last], special_tokens=[
                (name, whole.token_to_id(name)) for name in {*first, *last}])
    return whole


UNHEEDED = dict(repetition_penalty=1, no_repeat_ngram_size=0, num_beams=1,
                min_length=0, bad_words_ids=None, stop_strings=None,
                sequence_bias=None, begin_suppress_tokens=None,
                forced_bos_token_id=None, forced_eos_token_id=None)


def habits(folder: Path, config: dict) -> tuple[dict, list[str]]:
    """How a folder wants a text to begin and end, and what never to stand in
    it, as in ForeignTokenizer.known; the names of what else it wants."""
    path, said = folder / "generation_config.json", {"eos_token_id": 50256}
    said = read_json(path) if path.exists() else said | config

    def ids(key: str) -> list[int]:
        some = said.get(key)
        return [i for i in (some if isinstance(some, list) else [some])
                if type(i) is int and 0 <= i < config["vocab_size"]]

    ends = ids("eos_token_id")
    known = dict(start=[*ids("bos_token_id"), *ends, -1][0], ends=ends or [-1],
                 never=ids("suppress_tokens"))
    return known, [key for key, plain in UNHEEDED.items()
                   if said.get(key) not in (None, [], plain)]


def from_gpt2(folder: Path, path: Path) -> str:
    """Make a checkpoint of a folder that holds a GPT-2; say what it is."""
    require(folder.is_dir(), f"{folder} is not a folder: name a GPT-2's")
    config = read_json(folder / "config.json", needed=True)
    shape, tensors = our_shape(config), our_tensors(folder, config)
    said = (read_json(folder / "special_tokens_map.json")
            | read_json(folder / "tokenizer_config.json"))
    rows = shape["vocab_size"]
    whole = their_words(folder, said, rows)
    names = sorted(whole.get_vocab(), key=whole.token_to_id)
    size = whole.token_to_id(names[-1]) + 1
    require(size <= rows, f"a tokenizer of {size} ids, and a model of {rows}: "
            "take the tokenizer that the model was trained with")
    known, more = habits(folder, config)
    before, kind = [], ForeignTokenizer.kind
    if names == [*SPECIAL_TOKENS, *sorted("".join(names[3:]))] and size == rows:
        characters, kind = "".join(names[3:]), Tokenizer.kind
        before = whole.encode("").ids
    else:
        tidy = said.get("clean_up_tokenization_spaces", False)
        known |= dict(rows=rows, split=said.get("split_special_tokens", False),
                      tidy=tidy and "BPE" not in repr(whole.model)[:9])
        characters = json.dumps([known["ends"][0], whole.to_str(), known])
    meta = dict(step=0, best_loss=None, fingerprint="", before=before,
                tokenizer=kind, characters=characters, model=shape, train={})
    saved = rebuild(meta, tensors)
    as_gpt2(saved.model)
    saved.save(path)
    without = f" (without the folder's {', '.join(more)})" if more else ""
    return (f"{path} is a checkpoint{without}; python gpt2.py generate "
            f'--checkpoint "{path}" --prompt "..." writes with it')


def run_words(words: list[str] | None = None) -> int:
    """Run a command line (default: sys.argv), whose errors are raised."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["generate"]:
        return run_command(words, {"generate": COMMANDS["generate"]})
    if {"-h", "--help"} & {*words}:
        print(__doc__.strip())
        return 0
    commands = {"to-hf": to_hf, "from-gpt2": from_gpt2}
    require(len(words) == 3 and words[0] in commands, f"{words} is no command: "
            "give to-hf CHECKPOINT OUTDIR, from-gpt2 FOLDER CHECKPOINT, or "
            "generate (--help says more)")
    source, made = map(Path, words[1:])
    require(not made.exists(), f"{made} is there already: name another")
    require(made.parent.is_dir(), f"{made.parent} is no folder: make it")
    require(bool(tokenizers), WITHOUT)
    try:
        print(commands[words[0]](source, made))
    except MiniGPTError:
        raise
    except Exception as error:  # of a foreign folder, it may be any
        raise MiniGPTError(f"{source} does not fit ({type(error).__name__}: "
                           f"{brief(error)})") from None
    return 0


if __name__ == "__main__":
    sys.exit(main(run=run_words))


# tangled: 2ac603a423f29cc46cb0c4734755fe04801f64647e5b24dec4ba142e6dd711fd
