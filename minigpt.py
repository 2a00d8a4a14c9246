"""MiniGPT: a GPT that learns to write Python, one character at a time.

    python minigpt.py train       learn from the Python standard library
    python minigpt.py generate    write Python
    python minigpt.py --help      all the rest

Generated from the chapters of a book, book/NN_*.md: edit those, then run
`python book/tangle.py`. Their order is the order here:

    1 a program you can read     6 many heads     11 learning
    2 text into numbers          7 the block      12 checkpoints
    3 data                       8 MiniGPT        13 the training run
    4 embeddings                 9 choosing       15 the KV cache
    5 attention                 10 the machine    16 the program

One alphabet names the sizes of arrays: B batch, T time (characters),
C channels (d_model), H heads, D head size (C / H), V vocabulary.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shlex
import signal
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm


# 1. A program you can read (book/01_program.md) ------------------------------

class MiniGPTError(Exception):
    """Something the user can put right; the message says what, and how."""


def require(condition: bool, message: str) -> None:
    """Raise MiniGPTError with this message unless the condition holds."""
    if not condition:
        raise MiniGPTError(message)


def setting(default, about: str, low=-math.inf, high=math.inf):
    """A field of a config: its default, its meaning, its allowed range."""
    metadata = {"about": about, "span": (low, high)}
    return field(default=default, metadata=metadata)


class Settings:
    """Base of the configs: MiniGPTError for a wrong type or value."""

    def __post_init__(self):
        for f in fields(self):
            value, (low, high) = getattr(self, f.name), f.metadata["span"]
            kinds = (float, int) if f.type is float else (f.type,)
            right = type(value) in kinds
            fits = right and (f.type is str or low <= value <= high)
            span = "" if f.type in (str, bool) else f" from {low} to {high}"
            require(fits, f"{f.name} is {value!r}: it must be of type "
                    f"{f.type.__name__}{span}")


@dataclass(frozen=True)
class ModelConfig(Settings):
    """The shape of a model, in the terms of Vaswani et al. (2017)."""

    vocab_size: int = setting(99, "tokens it knows", 4, 2**20)
    context_length: int = setting(512, "characters it can see", 2, 2**16)
    d_model: int = setting(512, "numbers that stand for a token", 1, 2**14)
    n_layers: int = setting(8, "blocks, one after another", 1, 2**8)
    n_heads: int = setting(8, "attention heads in a block", 1, 2**8)
    d_ff: int = setting(0, "numbers inside an MLP; 0: 4 d_model", 0, 2**16)
    dropout: float = setting(0.2, "share of numbers dropped", 0.0, 0.9)

    def __post_init__(self):
        super().__post_init__()
        require(self.d_model % self.n_heads == 0, f"n_heads {self.n_heads} "
                f"does not divide d_model {self.d_model}: choose a divisor")
        if self.d_ff == 0:
            object.__setattr__(self, "d_ff", 4 * self.d_model)


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a model is trained. A step is one change of its weights."""

    batch_size: int = setting(64, "windows of text in a batch", 1, 2**16)
    grad_accum: int = setting(1, "batches added up for one step", 1, 2**16)
    max_steps: int = setting(5000, "steps of the whole run", 1)
    learning_rate: float = setting(1e-3, "the highest learning rate", 0, 10)
    min_learning_rate: float = setting(1e-5, "the last one", 0, 10)
    warmup_steps: int = setting(200, "steps up to the highest rate", 0)
    weight_decay: float = setting(0.1, "pull of matrices to zero", 0, 10)
    beta1: float = setting(0.9, "memory of the mean gradient", 0, 0.9999)
    beta2: float = setting(0.99, "memory of its square", 0, 0.99999)
    grad_clip: float = setting(1.0, "the longest gradient allowed", 1e-9)
    eval_interval: int = setting(250, "steps between evaluations", 1)
    eval_windows: int = setting(256, "windows in an evaluation", 1, 2**20)
    sample_interval: int = setting(500, "steps between samples", 1)
    checkpoint_interval: int = setting(250, "steps between checkpoints", 1)
    seed: int = setting(0, "number all random choices follow", 0, 2**32 - 1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    dtype: str = setting("auto", "auto, float32 or bfloat16")
    compile: bool = setting(False, "let PyTorch compile the model first")


PRESETS = {
    "full": {},
    "laptop": dict(
        context_length=128, d_model=192, n_layers=2, n_heads=6, dropout=0.0,
        batch_size=6, max_steps=4500, learning_rate=4e-3, warmup_steps=225,
        min_learning_rate=4e-5, eval_interval=300, sample_interval=300,
        checkpoint_interval=300),
    "tiny": dict(
        context_length=64, d_model=48, n_layers=2, n_heads=3, dropout=0.0,
        batch_size=16, max_steps=300, learning_rate=4e-3, warmup_steps=20,
        min_learning_rate=4e-5, eval_interval=50, sample_interval=100,
        checkpoint_interval=100, eval_windows=64),
}


def make_configs(preset: str, **changes) -> tuple[ModelConfig, TrainConfig]:
    """The two configs of a preset, with single fields changed by name."""
    require(preset in PRESETS, f"there is no preset {preset!r}: choose one of "
            f"{', '.join(PRESETS)}")
    values, configs = PRESETS[preset] | changes, []
    for kind in (ModelConfig, TrainConfig):
        names = [f.name for f in fields(kind) if f.name in values]
        configs.append(kind(**{name: values.pop(name) for name in names}))
    require(not values, f"there is no setting {', '.join(values)}: see --help")
    return configs[0], configs[1]


# 2. Text into numbers (book/02_tokenizer.md) ---------------------------------

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
PAD, EOS, UNK = range(len(SPECIAL_TOKENS))


def code_points(text: str) -> np.ndarray:
    """The Unicode code point of each character: uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Tokenizer:
    """Text to ids and back, one id per character.

    Ids 0, 1, 2 are `<pad>`, `<eos>`, `<unk>`; the characters follow in the
    order of their code points. No text encodes to `<pad>` or `<eos>`.
    """

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(SPECIAL_TOKENS) + len(self.characters)
        codes = code_points(self.characters)
        dtype = np.min_scalar_type(self.vocab_size - 1)  # unsigned
        self.to_id = np.full(int(codes.max(initial=0)) + 2, UNK, dtype)
        self.to_id[codes] = np.arange(len(SPECIAL_TOKENS), self.vocab_size)
        self.to_code = np.concatenate([[0, 0, 0xFFFD], codes]).astype("<u4")

    def encode(self, text: str, errors: str = "strict") -> np.ndarray:
        """The ids of a text, unsigned integers (len(text),).

        An unknown character raises MiniGPTError, or is `<unk>` if "replace".
        """
        require(errors in ("strict", "replace"), f"errors is {errors!r}: "
                "choose strict or replace")
        ids = self.to_id[np.minimum(code_points(text), len(self.to_id) - 1)]
        if errors == "strict" and UNK in ids:
            at = int((ids == UNK).argmax())
            raise MiniGPTError(f"the model does not know the character "
                               f"{text[at]!r} at position {at}: remove it, or "
                               "train on text that contains it")
        return ids

    def decode(self, ids) -> str:
        """The text of ids (n,): `<unk>` is U+FFFD, `<pad>` and `<eos>` none."""
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)].tolist()
        require(not wrong, f"id {wrong[:1]} is not in the vocabulary: choose "
                f"ids from 0 to {self.vocab_size - 1}")
        codes = self.to_code[ids[ids > EOS]]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")


# 3. Data (book/03_data.md) ---------------------------------------------------

LIMIT = 2**26  # bytes that a document may have
TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def read_source(source: Path) -> Iterator[tuple[str, Callable]]:
    """Yield (name, open) for each file in a folder or archive, or the file.

    `open()` gives a binary file. No name in an archive is ever used as a path.
    """
    if source.is_dir():
        for path in filter(Path.is_file, [*source.rglob("*")]):
            yield str(path), partial(path.open, "rb")
    elif source.suffix in (".zip", ".whl"):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, partial(archive.open, entry)
    elif source.name.endswith(TAR):
        with tarfile.open(source) as archive:
            for member in archive:
                if not member.isdir():
                    yield member.name, partial(archive.extractfile, member)
    else:
        yield str(source), partial(source.open, "rb")


def read_text(open_file: Callable, unicode: bool) -> tuple[str, str]:
    """(text, "") of a document in UTF-8, or ("", the reason to skip it)."""
    try:
        with open_file() as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            return "", f"larger than {LIMIT >> 20} MiB"
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    except Exception:  # a damaged archive, a link to nowhere: it may be any
        return "", "cannot be read"
    if not unicode and not text.isascii():
        return "", "not ASCII (--unicode takes it)"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, "" if text else "empty"


def read_texts(source: Path, suffixes: tuple[str, ...],
               unicode: bool) -> Iterator[tuple[str, str]]:
    """Yield (text, "") or ("", the reason to skip it) per file of a source."""
    try:
        for name, open_file in read_source(source):
            if name.endswith(suffixes):
                yield read_text(open_file, unicode)
            else:
                yield "", "other suffix (--suffix takes it)"
    except Exception as error:  # of a damaged archive, it may be any
        yield "", f"rest of {source}, which is damaged ({error})"


def gather(sources: list[Path], suffixes: tuple[str, ...], unicode: bool,
           folder: Path) -> tuple[Counter, Counter]:
    """Write each text of the sources to a file named by its sha256.

    Returns how often each character occurs, and how many files were skipped,
    by reason. Raises MiniGPTError for a source that is not there.
    """
    counts, skipped = Counter(), Counter()
    for source in sources:
        require(source.exists(), f"there is no {source}: check the path")
        for text, reason in read_texts(source, suffixes, unicode):
            path = folder / hashlib.sha256(text.encode()).hexdigest()
            if path.exists():
                reason = "duplicate"
            if reason:
                skipped[reason] += 1
            else:
                path.write_bytes(text.encode())
                counts.update(text)
    return counts, skipped


def prepare(sources: list[Path], out: Path, suffixes=(".py",),
            unicode: bool = False) -> dict:
    """Turn sources into `tokens.npy` and `meta.json` in the folder `out`.

    Returns the metadata: the vocabulary's characters, where `val` begins, a
    sha256 (the fingerprint), what was skipped. Equal texts give equal files.
    Raises MiniGPTError if a source is not there or no text is left.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        texts = Path(scratch, "texts")
        texts.mkdir()
        counts, skipped = gather(sources, suffixes, unicode, texts)
        paths = sorted(texts.iterdir())
        require(bool(paths), f"{', '.join(map(str, sources))}: no text is left "
                f"(skipped: {dict(skipped) or 'nothing'}): name other sources, "
                "or take more with --suffix or --unicode")
        rare = counts.total() / 100_000 if unicode else 0
        tokenizer = Tokenizer("".join(c for c in counts if counts[c] >= rare))
        total, ends, sha256 = counts.total() + len(paths), [0], hashlib.sha256()
        with open(Path(scratch, "tokens.npy"), "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, dict(descr=tokenizer.to_id.dtype.str, shape=(total,),
                           fortran_order=False))
            for path in paths:
                ids = tokenizer.encode(path.read_bytes().decode(), "replace")
                ids = np.pad(ids, (0, 1), constant_values=EOS)
                file.write(ids)
                sha256.update(ids)
                ends.append(ends[-1] + len(ids))
        cut = next(end for end in ends if end >= 0.9 * total)
        meta = dict(characters=tokenizer.characters, documents=len(paths),
                    val_start=cut if cut < total else int(0.9 * total),
                    fingerprint=sha256.hexdigest(),
                    skipped=dict(sorted(skipped.items())))
        Path(scratch, "meta.json").write_text(json.dumps(meta), "utf-8")
        for name in ("tokens.npy", "meta.json"):
            os.replace(Path(scratch, name), out / name)
    return meta


@lru_cache(maxsize=2)
def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """The numbers 0 to n - 1 in the random order of this epoch: (n,)."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class Dataset:
    """One split, "train" or "val", of prepared text, as windows of ids."""

    def __init__(self, folder: Path, split: str, context_length: int):
        """MiniGPTError for a folder not prepared, a split below a window."""
        try:
            meta = json.loads((folder / "meta.json").read_text("utf-8"))
            tokens = np.load(folder / "tokens.npy", mmap_mode="r")
            self.tokenizer = Tokenizer(meta["characters"])
            self.fingerprint, cut = meta["fingerprint"], meta["val_start"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MiniGPTError(f"{folder} holds no prepared text ({error}): "
                               "make it with 'minigpt.py prepare'") from None
        self.tokens = tokens[:cut] if split == "train" else tokens[cut:]
        self.context_length = T = context_length
        self.n_chunks = (len(self.tokens) - 1) // T
        require(self.n_chunks > 0, f"the {split} split has {len(self.tokens)} "
                f"tokens, a window takes {T + 1}: prepare more text, or lower "
                "--context-length")

    def windows(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), int64; `<pad>` beyond the split's end."""
        rows = np.full((len(starts), self.context_length + 1), PAD, np.int64)
        for row, start in zip(rows, starts):
            piece = self.tokens[start:start + len(row)]
            row[:len(piece)] = piece
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Batch `number` of an endless series: inputs and targets (B, T)."""
        n, places = self.n_chunks, range(number * size, (number + 1) * size)
        chunks = [shuffled(n, seed, place // n)[place % n] for place in places]
        return self.windows(np.array(chunks) * self.context_length)

    def starts(self, count: int | None = None) -> np.ndarray:
        """`count` evenly spaced starts, or those that cover every token."""
        last, T = len(self.tokens) - 1, self.context_length
        if count is None:
            return np.arange(0, last, T)
        return np.linspace(0, last - T, count).astype(int)


# 4. Embeddings (book/04_embeddings.md) ---------------------------------------

class Embeddings(nn.Module):
    """Ids to vectors: a learned row per token plus one per position."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        T, C = config.context_length, config.d_model
        self.token_embedding = nn.Embedding(config.vocab_size, C)
        self.position_embedding = nn.Embedding(T, C)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Vectors (B, T, C) of ids (B, T) that begin at position start."""
        end, room = start + ids.size(1), self.position_embedding.num_embeddings
        assert end <= room, f"{end} characters, the context has {room}"
        positions = torch.arange(start, end, device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)
        return self.dropout(x)  # (B, T) -> (B, T, C)


# 5. Attention (book/05_attention.md) -----------------------------------------

def attention(q: Tensor, k: Tensor, v: Tensor,
              dropout: float = 0.0) -> Tensor:
    """Causal attention: softmax(Q K^T / sqrt(D) + mask) V.

    q is (..., T_q, D), k and v are (..., T_k, D), the result is like q. The
    queries are the last T_q of the T_k positions, and each sees itself and
    what lies before. `dropout` drops that share of the weights.
    Source: Vaswani et al. (2017), equation 1.
    """
    T_q, T_k, D = q.size(-2), k.size(-2), q.size(-1)
    assert T_q <= T_k, f"{T_q} queries need as many keys, not {T_k}"
    mask = None
    if 1 < T_q < T_k:  # is_causal would align the mask to the first key
        mask = torch.ones(T_q, T_k, dtype=torch.bool, device=q.device)
        mask = mask.tril(T_k - T_q)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=T_q == T_k, scale=1 / math.sqrt(D))


# 6. Many heads (book/06_heads.md) --------------------------------------------

class MultiHeadAttention(nn.Module):
    """H attentions side by side, then a projection that mixes them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.proj = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, remember=None) -> Tensor:
        """(B, T, C) -> (B, T, C); `remember` adds the past to keys, values."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if remember is not None:
            k, v = remember(k, v)
        y = attention(q, k, v, self.dropout.p if self.training else 0.0)
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, H, T, D) -> (B, T, C)
        return self.dropout(self.proj(y))


# 7. The block (book/07_block.md) ---------------------------------------------

class MLP(nn.Module):
    """Two linear layers with a GELU between, on each position alone."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.expand = nn.Linear(config.d_model, config.d_ff)
        self.proj = nn.Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        y = F.gelu(self.expand(x), approximate="tanh")  # -> (B, T, d_ff)
        return self.dropout(self.proj(y))


class Block(nn.Module):
    """Attention, then an MLP, each added to what it read (pre-norm)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model)
        self.attention = MultiHeadAttention(config)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, remember=None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attention(self.norm1(x), remember)
        return x + self.mlp(self.norm2(x))


# 8. MiniGPT (book/08_minigpt.md) ---------------------------------------------

def initialise(model: nn.Module) -> None:
    """Draw the first weights so that signals keep their size (in place)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = 1 / math.sqrt(parameter.size(1))
            if "embedding" in name:
                std = 0.5
            elif name.endswith("proj.weight"):
                std /= math.sqrt(2 * model.config.n_layers)
            elif name == "head.weight":
                std *= 0.3
            nn.init.normal_(parameter, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


class MiniGPT(nn.Module):
    """A GPT (Radford et al., 2019) whose output head is a matrix of its own."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config)
                                    for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        initialise(self)

    def forward(self, ids: Tensor, cache=None) -> Tensor:
        """Logits (B, T, V) for the token after each of the ids (B, T).

        With a KVCache, the ids continue the text that it has read so far.
        """
        assert ids.dim() == 2, f"ids are {tuple(ids.shape)}, expected (B, T)"
        x = self.embeddings(ids, cache.length if cache else 0)
        for i, block in enumerate(self.blocks):
            x = block(x, partial(cache.append, i) if cache else None)
        if cache:
            cache.length += ids.size(1)
        return self.head(self.norm(x))  # (B, T, C) -> (B, T, V)


def count_parameters(model: nn.Module) -> int:
    """How many learned numbers a model has."""
    return sum(p.numel() for p in model.parameters())


# 9. Choosing the next character (book/09_choosing.md) ------------------------

@dataclass(frozen=True)
class GenerateConfig(Settings):
    """How text is written."""

    max_new_tokens: int = setting(500, "characters at most", 0, 10**8)
    min_new_tokens: int = setting(0, "characters before it may end", 0)
    temperature: float = setting(0.8, "0: the likeliest; 1: as learned", 0)
    top_k: int = setting(0, "choose among this many; 0: all", 0)
    top_p: float = setting(1.0, "choose among this share; 1: all", 1e-9, 1)
    seed: int = setting(0, "number all random choices follow", 0, 2**32 - 1)


def choose(logits: Tensor, config: GenerateConfig,
           generator: torch.Generator) -> Tensor:
    """Draw a token id per row of logits (B, V): int64 (B,).

    In the order temperature, top-k, top-p (Holtzman et al., 2020);
    temperature 0 takes the largest logit.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() - logits.amax(-1, keepdim=True)
    ranked, ids = (logits / config.temperature).sort(descending=True)
    if config.top_k:
        ranked[:, config.top_k:] = -math.inf
    p = ranked.softmax(-1)
    p[p.cumsum(-1) - p >= config.top_p] = 0
    drawn = torch.multinomial(p, 1, generator=generator)
    return ids.gather(-1, drawn).squeeze(-1)  # (B, 1) -> (B,)


def window_start(n: int, context_length: int) -> int:
    """Where the model begins to read after n characters."""
    half = context_length // 2
    return max(0, math.ceil((n - context_length) / half)) * half


NextLogits = Callable[[Tensor], Tensor]


def uncached(model: MiniGPT) -> NextLogits:
    """The function text (B, n) -> next logits (B, V), without a memory."""
    model.eval()

    @torch.inference_mode()
    def next_logits(text: Tensor) -> Tensor:
        start = window_start(text.size(1), model.config.context_length)
        return model(text[:, start:])[:, -1]

    return next_logits


def generate(next_logits: NextLogits, ids: Tensor,
             config: GenerateConfig) -> Iterator[Tensor]:
    """Continue each row of ids (B, n); yield (B,) ids per step.

    A row ends with `<eos>` and is `<pad>` from then on; the iterator ends
    with the last row, or after max_new_tokens.
    """
    B, n = ids.shape
    assert n > 0, "there is nothing to continue: begin with <eos>"
    generator = torch.Generator().manual_seed(config.seed)
    text = F.pad(ids, (0, config.max_new_tokens), value=PAD)
    ended = torch.zeros(B, dtype=torch.bool)
    for i in range(config.max_new_tokens):
        never = [PAD, UNK] if i >= config.min_new_tokens else [PAD, UNK, EOS]
        logits = next_logits(text[:, :n + i]).float().cpu()
        logits = logits.index_fill(-1, torch.tensor(never), -math.inf)
        chosen = choose(logits, config, generator).masked_fill(ended, PAD)
        ended |= chosen == EOS
        if ended.all():
            return
        yield chosen
        text[:, n + i] = chosen.to(text.device)


# 10. The machine (book/10_machine.md) ----------------------------------------

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """The device that computes, and the precision of matrix products."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self):
        """A context in which matrix products take self.dtype."""
        mixed = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=mixed)

    def __str__(self) -> str:
        name = f"{self.device}, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{name}, {self.dtype}"


def pick_machine(device: str = "auto", dtype: str = "auto") -> Machine:
    """The machine of these names; "auto" is the best there is.

    Raises MiniGPTError for a device that is not there or an unknown type.
    """
    if device == "auto":
        found = {"cuda": torch.cuda, "mps": torch.backends.mps}
        device = next((d for d in found if found[d].is_available()), "cpu")
    try:
        assert device.split(":")[0] in ("cpu", "cuda", "mps"), "unknown device"
        where = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise MiniGPTError(f"device {device!r} cannot be used here ({error}): "
                           "choose auto, cpu, cuda, cuda:N or mps") from None
    if dtype == "auto":
        cuda = where.type == "cuda"
        new = cuda and torch.cuda.get_device_capability(where) >= (8, 0)
        dtype = "bfloat16" if new else "float32"
    require(dtype in DTYPES, f"there is no dtype {dtype!r} here: choose one of "
            f"auto, {', '.join(DTYPES)}")
    return Machine(where, DTYPES[dtype])


def seed_dropout(seed: int, step: int, micro_step: int, rank: int = 0) -> None:
    """Seed PyTorch from the place in the run, so that no state is saved."""
    place = np.random.SeedSequence([seed, step, micro_step, rank])
    torch.manual_seed(int(place.generate_state(1)[0]))


def compile_model(model: nn.Module, ids: Tensor, machine: Machine) -> nn.Module:
    """The model compiled for ids (B, T), or as it is where that fails."""
    try:
        compiled = torch.compile(model)
        with machine.autocast():
            compiled(ids.to(machine.device)).sum().backward()
    except Exception as error:  # whatever a compiler may raise
        print(f"torch.compile failed ({type(error).__name__}), going on "
              "without it", file=sys.stderr)
        compiled = model
    model.zero_grad(set_to_none=True)
    return compiled


def peak_memory(machine: Machine) -> int | None:
    """The most bytes this process held at once; None where unknown."""
    if machine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(machine.device)
    if machine.device.type == "mps" or sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# 11. Learning (book/11_learning.md) ------------------------------------------

def cross_entropy(logits: Tensor, targets: Tensor, reduction="mean") -> Tensor:
    """Nats of logits (B, T, V) for targets (B, T), `<pad>` left out."""
    logits = logits.flatten(0, 1).float()  # (B, T, V) -> (B T, V)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=PAD,
                           reduction=reduction)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) that decays matrices alone."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    assert len(matrices) + len(vectors) == len(parameters)
    groups = [{"params": matrices, "weight_decay": config.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    betas = config.beta1, config.beta2
    return torch.optim.AdamW(groups, config.learning_rate, betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step (from 0): linear warm-up, then half a cosine."""
    high, low = config.learning_rate, config.min_learning_rate
    if step < config.warmup_steps:
        return high * (step + 1) / config.warmup_steps
    falling = max(1, config.max_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / falling)
    return low + (high - low) * (1 + math.cos(math.pi * progress)) / 2


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer,
                  dataset: Dataset, step: int, config: TrainConfig,
                  machine: Machine) -> tuple[float, float]:
    """Change the weights once; return loss (nats) and gradient norm.

    Reads grad_accum batches. Raises MiniGPTError, with the weights as they
    were, when loss or gradient is not finite.
    """
    model.train()
    total = 0.0
    for micro_step in range(config.grad_accum):
        number = step * config.grad_accum + micro_step
        batch = dataset.batch(number, config.batch_size, config.seed)
        inputs, targets = (ids.to(machine.device) for ids in batch)
        seed_dropout(config.seed, step, micro_step)
        with machine.autocast():
            loss = cross_entropy(model(inputs), targets) / config.grad_accum
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip).item()
    require(math.isfinite(total) and math.isfinite(norm), f"step {step + 1}: "
            f"loss {total}, gradient norm {norm}: lower --learning-rate, or "
            "use --dtype float32")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, norm


@torch.inference_mode()
def evaluate(model: nn.Module, dataset: Dataset, machine: Machine,
             count: int | None = None, batch_size: int = 32) -> float:
    """Nats per character on `count` fixed windows, or on the whole split."""
    model.eval()
    starts, total, characters = dataset.starts(count), 0.0, 0
    for i in range(0, len(starts), batch_size):
        batch = dataset.windows(starts[i:i + batch_size])
        inputs, targets = (ids.to(machine.device) for ids in batch)
        with machine.autocast():
            total += cross_entropy(model(inputs), targets, "sum").item()
        characters += int((targets != PAD).sum())
    return total / characters


# 12. Checkpoints (book/12_checkpoints.md) ------------------------------------

def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes, wholly or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def digest(metadata: dict, tensors: dict[str, Tensor]) -> str:
    """The sha256 of metadata, and of each tensor's name, type, shape, bytes."""
    forms = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
    text = json.dumps([metadata, forms], sort_keys=True)
    sha256 = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha256.update(tensors[name].flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


FORMAT = 2  # of our metadata; a newer file is refused, not guessed at
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names for m and v


@dataclass
class Checkpoint:
    """All that a run needs to go on; what is in a checkpoint file."""

    model: MiniGPT
    optimizer: torch.optim.AdamW
    config: TrainConfig
    tokenizer: Tokenizer
    fingerprint: str  # of the data
    before: list[int] = field(default_factory=list)  # ids, read before a prompt
    step: int = 0  # how many are done
    best_loss: float | None = None  # nats per character, on `val`

    def save(self, path: Path, moments: bool = True) -> None:
        """Write a file; once a step is done, with the optimizer's moments."""
        tensors = {}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p
            for moment in MOMENTS if moments and self.step else ():
                tensors[f"{moment}.{name}"] = self.optimizer.state[p][moment]
        tensors = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        meta = dict(format=FORMAT, model=asdict(self.model.config),
                    train=asdict(self.config), step=self.step,
                    best_loss=self.best_loss, fingerprint=self.fingerprint,
                    before=self.before, characters=self.tokenizer.characters)
        meta["sha256"] = digest(meta, tensors)
        texts = {"minigpt": json.dumps(meta, sort_keys=True)}
        write_atomically(path, lambda p: save_file(tensors, p, texts))


def rebuild(meta: dict, tensors: dict[str, Tensor], device) -> Checkpoint:
    """A run from what its file holds; MiniGPTError if that does not fit."""
    keys = ("step", "characters", "fingerprint", "before", "best_loss")
    *known, loss = (meta[key] for key in keys)
    step, characters, fingerprint, before = known
    require([*map(type, known)] == [int, str, str, list] and step >= 0
            and (loss is None or type(loss) is float), "values of wrong types")
    config, tokenizer = TrainConfig(**meta["train"]), Tokenizer(characters)
    require(all(type(i) is int and 0 <= i < tokenizer.vocab_size
                for i in before), f"before {before}, which are no ids")
    with torch.device("meta"):
        model = MiniGPT(ModelConfig(**meta["model"]))
    require(model.config.vocab_size == tokenizer.vocab_size, "a vocabulary "
            "that does not fit the model")
    kinds = ["model", *(m for m in MOMENTS if f"{m}.head.weight" in tensors)]
    needed = {f"{kind}.{name}": p.shape for kind in kinds
              for name, p in model.named_parameters()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name, _ in needed.items() ^ found.items())
    require(not wrong, f"tensors that do not fit its config, {wrong[:1]}")
    for name, tensor in tensors.items():
        require(bool(tensor.isfinite().all()), f"{name} is not finite")
        tensors[name] = tensor.to(device, torch.float32)
    model.load_state_dict({name: tensors[f"model.{name}"] for name, _
                           in model.named_parameters()}, assign=True)
    optimizer = make_optimizer(model, config)
    for name, p in model.named_parameters() if kinds[1:] else ():
        optimizer.state[p] = {m: tensors[f"{m}.{name}"] for m in MOMENTS}
        optimizer.state[p]["step"] = torch.tensor(float(step), device=device)
    return Checkpoint(model, optimizer, config, tokenizer, fingerprint, before,
                      step, loss)


def load_checkpoint(path: Path, device="cpu") -> Checkpoint:
    """Read and verify a checkpoint, and put its tensors on a device.

    Raises MiniGPTError if the file is missing, foreign or damaged.
    """
    require(path.is_file(), f"{path} is not a file: check the path, or train")
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["minigpt"])
            require(meta["format"] == FORMAT, f"format {meta['format']}, which "
                    f"this program does not know (it knows {FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        require(meta.pop("sha256") == digest(meta, tensors), "wrong sha256")
        return rebuild(meta, tensors, device)
    except Exception as error:  # of a foreign file, it may be any
        raise MiniGPTError(f"{path} is not a whole MiniGPT checkpoint "
                           f"({error}): choose another file") from None


# 13. The training run (book/13_run.md) ---------------------------------------

class StopSignal:
    """Within `with`, `number` is that of the first Ctrl-C or SIGTERM, or 0."""

    def __enter__(self):
        self.number = 0
        self.before = {number: signal.signal(number, self.note)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame):  # a second signal acts as it always did
        self.number = number
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """A run in progress; `seconds` is the time of its training steps."""

    folder: Path
    state: Checkpoint
    machine: Machine
    seconds: float = 0.0

    def log(self, name: str, **record) -> None:
        """Append a record to NAME.jsonl, as one line, with the step."""
        line = json.dumps({"step": self.state.step, **record})
        with open(self.folder / f"{name}.jsonl", "a", encoding="utf-8") as f:
            f.write(line + "\n")


def trim(log: Path, step: int) -> list[dict]:
    """Drop the records of a log after a step; return those that stay."""
    text, records = log.read_text("utf-8") if log.exists() else "", []
    for line in text.splitlines():
        with suppress(ValueError):  # torn when the process was killed
            records.append(json.loads(line))
    records = [record for record in records if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(log, lambda path: path.write_text(text, "utf-8"))
    return records


LAST, BEST = "last.safetensors", "best.safetensors"
RUN_FILES = (LAST, BEST, "metrics.jsonl", "samples.jsonl", "run.json")


def opening(tokenizer: Tokenizer) -> list[int]:
    """The ids read before a prompt: `<eos>`, and two `\\n` if it has them."""
    ids = tokenizer.encode("\n\n", "replace").tolist()
    return [EOS, *(i for i in ids if i != UNK)]


def begin(folder: Path, shape: ModelConfig, config: TrainConfig, data: Dataset,
          resume: bool, overwrite: bool) -> Run:
    """A new run, or the run as it was when its last checkpoint was written.

    Raises MiniGPTError for a run that exists when neither is asked for, or
    data other than those it began with.
    """
    found = [folder / name for name in RUN_FILES if (folder / name).exists()]
    require(resume or overwrite or not found, f"{folder} holds a run: give "
            "--resume or --overwrite, or another folder with --run")
    machine, last = pick_machine(config.device, config.dtype), folder / LAST
    require(overwrite or last in found or not found, f"{folder} holds a run "
            f"without its {LAST}: put that back, or give --overwrite")
    if resume and found:
        state = load_checkpoint(last, machine.device)
        require(state.step == 0 or bool(state.optimizer.state), f"{last} has "
                "weights alone: a run cannot go on from it")
        require(state.fingerprint == data.fingerprint, f"{folder} learns from "
                f"data {state.fingerprint[:8]}, these are "
                f"{data.fingerprint[:8]}: give the same with --data")
        state.config = config
    else:
        torch.manual_seed(config.seed)
        shape = replace(shape, vocab_size=data.tokenizer.vocab_size)
        model = MiniGPT(shape).to(machine.device)
        state = Checkpoint(model, make_optimizer(model, config), config,
                           data.tokenizer, data.fingerprint,
                           opening(data.tokenizer))
    if state.step == 0:
        for path in {*found} - {last}:
            path.unlink()
        state.save(last)
    trim(folder / "samples.jsonl", state.step)
    records = trim(folder / "metrics.jsonl", state.step)
    seconds = records[-1]["seconds"] if records else 0.0
    return Run(folder, state, machine, seconds)


def measure(run: Run, val: Dataset) -> None:
    """Evaluate, log and print the loss; keep the weights if it is a best."""
    state, config = run.state, run.state.config
    loss = evaluate(state.model, val, run.machine, config.eval_windows)
    run.log("metrics", val_loss=loss, seconds=run.seconds)
    tqdm.write(f"step {state.step} of {config.max_steps}: validation loss "
               f"{loss:.3f} nats ({loss / math.log(2):.3f} bits) per character")
    best = math.inf if state.best_loss is None else state.best_loss
    if state.step > 0 and loss < best:
        state.best_loss = loss
        state.save(run.folder / BEST, moments=False)


SAMPLE = GenerateConfig(max_new_tokens=240, temperature=0.8)


def show_samples(run: Run, reader: Callable) -> None:
    """Write 8 texts that begin with `def `; log them all, print the first."""
    state, tokenizer = run.state, run.state.tokenizer
    prompt = tokenizer.encode("def ", "replace").tolist()
    ids = torch.tensor(state.before + (prompt if UNK not in prompt else []))
    rows = ids.repeat(8, 1)
    steps = generate(reader(state.model), rows.to(run.machine.device), SAMPLE)
    rows = torch.stack([*rows.T, *steps], dim=1)  # (B, n + new)
    texts = [tokenizer.decode(row[len(state.before):]) for row in rows]
    run.log("samples", texts=texts)
    tqdm.write(f"\n{texts[0]}\n")


def write_record(run: Run) -> None:
    """Write run.json: what the run is, and what it took so far."""
    state = run.state
    record = dict(
        model=asdict(state.model.config), train=asdict(state.config),
        step=state.step, best_loss=state.best_loss, machine=str(run.machine),
        fingerprint=state.fingerprint, platform=platform.platform(),
        python=platform.python_version(), torch=torch.__version__,
        training_seconds=round(run.seconds, 1),
        peak_memory_bytes=peak_memory(run.machine))
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(run.folder / "run.json",
                     lambda path: path.write_text(text, "utf-8"))


def one_step(run: Run, model: nn.Module, dataset: Dataset) -> float:
    """One training step, timed, counted and logged: its loss in nats."""
    start, state = time.perf_counter(), run.state
    try:
        loss, norm = training_step(model, state.optimizer, dataset, state.step,
                                   state.config, run.machine)
    except MiniGPTError as error:
        last = next(run.folder.glob(LAST), "not written yet")
        raise MiniGPTError(
            f"{error}; the last good checkpoint: {last}") from None
    run.seconds += time.perf_counter() - start
    rate = learning_rate(state.step, state.config)
    state.step += 1
    run.log("metrics", loss=loss, grad_norm=norm, learning_rate=rate,
            seconds=run.seconds)
    return loss


def train(shape: ModelConfig, config: TrainConfig, data: Path, folder: Path,
          resume: bool = False, overwrite: bool = False,
          max_minutes: float = math.inf, reader=uncached) -> tuple[Run, int]:
    """Train a model in the folder of a run, or continue the run there.

    Returns the run and the signal that ended it, 0 if none; `reader` says
    how samples are read. Raises MiniGPTError as `begin` and the steps do.
    """
    T, deadline = shape.context_length, time.monotonic() + 60 * max_minutes
    dataset, val = Dataset(data, "train", T), Dataset(data, "val", T)
    size = config.batch_size * config.grad_accum * T  # characters in a step
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", timeout=0), StopSignal() as stop:
        run = begin(folder, shape, config, dataset, resume, overwrite)
        state = run.state
        model = state.model
        if config.compile:
            ids, _ = dataset.batch(0, config.batch_size, config.seed)
            model = compile_model(model, ids, run.machine)
        write_record(run)
        if state.step == 0:
            measure(run, val)
        with tqdm(total=config.max_steps * size, initial=state.step * size,
                  unit="char", unit_scale=True, disable=None) as bar:
            while state.step < config.max_steps:
                loss = one_step(run, model, dataset)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(size)
                done = state.step == config.max_steps
                if done or state.step % config.eval_interval == 0:
                    measure(run, val)
                if done or state.step % config.sample_interval == 0:
                    show_samples(run, reader)
                late = stop.number or time.monotonic() >= deadline
                if done or late or state.step % config.checkpoint_interval == 0:
                    state.save(folder / LAST)
                    write_record(run)
                if late:
                    break
    return run, stop.number


# 15. The KV cache (book/15_kv_cache.md) --------------------------------------

class KVCache:
    """Keys and values of the text read so far; 8 L B T C bytes in float32.

    `like` is a tensor of the device and type to use (CPU, float32).
    """

    def __init__(self, config: ModelConfig, batch_size: int = 1,
                 like: Tensor = torch.empty(0)):
        shape = (config.n_layers, batch_size, config.n_heads,
                 config.context_length, config.d_model // config.n_heads)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.length = 0  # characters read; the model counts them

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's (B, H, T_new, D); return all of its (B, H, T, D)."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def cached(model: MiniGPT) -> NextLogits:
    """Like `uncached`, but reads only what is new, so the text must grow."""
    model.eval()
    cache, start = None, 0

    @torch.inference_mode()
    def next_logits(text: Tensor) -> Tensor:
        nonlocal cache, start
        B, n = text.shape
        begin = window_start(n, model.config.context_length)
        if cache is None or begin != start:
            cache, start = KVCache(model.config, B, model.norm.weight), begin
        unread = text[:, start + cache.length:]
        assert unread.size(1) > 0, "the text has not grown since the last call"
        return model(unread, cache)[:, -1]

    return next_logits


# 16. The program (book/16_program.md) ----------------------------------------

HERE = Path(__file__).parent if "__file__" in globals() else Path("..")
CORPUS = HERE / "data" / "python-stdlib.tar.xz"
SHIPPED = HERE / "checkpoints" / "pretrained.safetensors"
DATA, RUNS = Path("data", "prepared"), Path("checkpoints")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str):
        raise MiniGPTError(f"{message}: see {self.prog} --help")


def add_command(commands, name: str, run: Callable, *configs: type) -> Callable:
    """Add a command with its configs' flags; return its add_argument."""
    about = run.__doc__
    parser = commands.add_parser(name, help=about, description=about,
                                 allow_abbrev=False)
    parser.set_defaults(run_command=run)
    for f in (f for config in configs for f in fields(config)):
        if f.name == "vocab_size":  # comes from the data
            continue
        defaults = [f"default {f.default}"] + [
            f"{p} {v[f.name]}" for p, v in PRESETS.items() if f.name in v]
        how = {"type": f.type, "metavar": f.type.__name__.upper()}
        if f.type is bool:
            how = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            f"--{f.name.replace('_', '-')}", default=argparse.SUPPRESS, **how,
            help=f"{f.metadata['about']} ({', '.join(defaults)})")
    return parser.add_argument


def run_prepare(sources: list[Path], out: Path, suffix: str,
                unicode: bool) -> int:
    """Turn sources into token files; say what was taken and what skipped."""
    suffixes = tuple(filter(None, suffix.replace(" ", "").split(",")))
    require(bool(suffixes), f"--suffix is {suffix!r}: give one like .py")
    meta = prepare(sources or [CORPUS], out, suffixes, unicode)
    print(f"{out}: {meta['documents']} documents, "
          f"{len(meta['characters'])} different characters")
    for reason, count in meta["skipped"].items():
        print(f"skipped {count}: {reason}")
    return 0


def find_data(named: Path | None) -> Path:
    """The folder named, or the default one, prepared if need be."""
    if named is None and not (DATA / "meta.json").exists():
        print(f"preparing {CORPUS} in {DATA}")
        prepare([CORPUS], DATA)
    return named or DATA


def run_train(preset: str, data: Path | None, run: Path | None, resume: bool,
              overwrite: bool, max_minutes: float, **changes) -> int:
    """Train a model, or continue a run."""
    require(not (resume and overwrite), "--resume and --overwrite contradict "
            "each other: give one of them")
    require(max_minutes >= 0, f"--max-minutes is {max_minutes}: give 0 or more")
    wanted = (changes.get(name, "auto") for name in ("device", "dtype"))
    machine = pick_machine(*wanted)
    name, known = preset, {}
    if preset == "auto":
        name = "full" if machine.device.type == "cuda" else "laptop"
        print(f"preset {name}, because this is {machine}")
    run = run or RUNS / name
    if resume and (run / LAST).exists():
        state = load_checkpoint(run / LAST)
        known = asdict(state.model.config) | asdict(state.config)
    values = known if known and preset == "auto" else PRESETS[name]
    shape, config = make_configs("full", **values | changes)
    for key, value in (asdict(shape) | asdict(config)).items():
        free, flag = ("vocab_size", "device", "compile"), key.replace("_", "-")
        require(key in free or value == known.get(key, value), f"--{flag} "
                f"{value} contradicts the run, which has {known.get(key)}: "
                "leave it out, or choose another --run")
    data = find_data(data)
    ended, number = train(shape, config, data, run, resume, overwrite,
                          max_minutes, reader=cached)
    if ended.state.step < config.max_steps:
        again = ["train", "--run", str(run), "--data", str(data), "--resume"]
        print(f"stopped after step {ended.state.step}; go on with:\n"
              f"python minigpt.py {shlex.join(again)}")
    return 128 + number if number else 0


def until(pieces: Iterable[str], stop: str) -> Iterator[str]:
    """Pass pieces of text on, up to the text `stop` ("" for none)."""
    held = ""
    for piece in pieces:
        held += piece
        if stop and stop in held:
            yield held.partition(stop)[0]
            return
        sure = max(0, len(held) - max(0, len(stop) - 1))
        yield held[:sure]
        held = held[sure:]
    yield held


def find_checkpoint(named: Path | None) -> Path:
    """The file named, else the newest run's best or last, else our own."""
    found = {path.parent: path for name in (LAST, BEST)  # a best comes first
             for path in RUNS.glob(f"*/{name}")}
    newest = sorted(found.values(), key=lambda path: path.stat().st_mtime)
    return named or [SHIPPED, *newest][-1]


def run_generate(checkpoint: Path | None, prompt: str, prompt_file: Path | None,
                 stop: str, num_samples: int, no_cache: bool, device: str,
                 dtype: str, **changes) -> int:
    """Continue a prompt; the text goes to stdout, all else to stderr."""
    config, machine = GenerateConfig(**changes), pick_machine(device, dtype)
    require(num_samples > 0, f"--num-samples is {num_samples}: give 1 or more")
    require(not (prompt and prompt_file), "--prompt, --prompt-file: give only "
            "one of them")
    prompt = prompt_file.read_text("utf-8") if prompt_file else prompt
    path = find_checkpoint(checkpoint)
    saved = load_checkpoint(path)
    tokenizer, T = saved.tokenizer, saved.model.config.context_length
    ids = saved.before + tokenizer.encode(prompt).tolist() or [EOS]
    most = T - len(saved.before)
    require(len(prompt) <= most, f"the prompt has {len(prompt)} characters, the"
            f" model can read {most}: give the last {most} of them")
    model = saved.model.to(machine.device, machine.dtype)
    loss = "not evaluated yet"
    if saved.best_loss is not None:
        loss = f"validation loss {saved.best_loss:.3f} nats per character"
    print(f"{path}: step {saved.step}, {loss}; {count_parameters(model):,} "
          f"parameters, {machine}", file=sys.stderr)
    rows = torch.tensor(ids, device=machine.device).repeat(num_samples, 1)
    steps = generate((uncached if no_cache else cached)(model), rows, config)
    with StopSignal() as ended:
        steps = takewhile(lambda _: not ended.number, steps)
        steps = list(steps) if num_samples > 1 else steps
        for i in range(num_samples):
            if num_samples > 1:
                print(f"--- sample {i + 1} of {num_samples}", file=sys.stderr)
            print(prompt, end="", flush=True)
            pieces = (tokenizer.decode(step[i:i + 1]) for step in steps)
            for piece in until(pieces, stop):
                print(piece, end="", flush=True)
    return 128 + ended.number if ended.number else 0


def run_evaluate(checkpoint: Path | None, data: Path | None) -> int:
    """Measure a checkpoint on the whole validation split."""
    path, machine = find_checkpoint(checkpoint), pick_machine()
    saved = load_checkpoint(path, machine.device)
    val = Dataset(find_data(data), "val", saved.model.config.context_length)
    require(val.tokenizer.characters == saved.tokenizer.characters,
            f"{path} was trained on other characters than these data have: "
            "give the data of its run with --data")
    loss = evaluate(saved.model, val, machine)
    print(f"{path}: {loss:.4f} nats, {loss / math.log(2):.4f} bits per "
          f"character, over {len(val.tokens) - 1:,} characters")
    return 0


FOLDER, FILE = dict(type=Path, metavar="DIR"), dict(type=Path, metavar="FILE")
SWITCH, TEXT = dict(action="store_true"), dict(metavar="TEXT", default="")


def build_parser() -> Parser:
    """The command line: prepare, train, generate, evaluate."""
    parser = Parser(prog="minigpt.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add = add_command(commands, "prepare", run_prepare)
    add("sources", nargs="*", type=Path, metavar="SOURCE", help="folder, file, "
        ".zip, .whl or .tar.* (default: the standard library of Python)")
    add("--out", **FOLDER, default=DATA, help=f"output (default {DATA})")
    add("--suffix", metavar="LIST", default=".py",
        help="file name endings to take, separated by commas (default .py)")
    add("--unicode", **SWITCH, help="take texts that are not ASCII, too")
    add = add_command(commands, "train", run_train, ModelConfig, TrainConfig)
    add("--preset", default="auto", choices=["auto", *PRESETS],
        help="named settings (default auto: full on CUDA, else laptop)")
    add("--data", **FOLDER, help=f"prepared text (default {DATA})")
    add("--run", **FOLDER, help=f"the run's folder (default {RUNS}/PRESET)")
    add("--resume", **SWITCH, help="continue the run, or start it")
    add("--overwrite", **SWITCH, help="replace the run")
    add("--max-minutes", type=float, default=math.inf, metavar="M",
        help="stop after so many minutes (default: none)")
    add = add_command(commands, "generate", run_generate, GenerateConfig)
    add("--checkpoint", **FILE, help="weights (default: the newest run's)")
    add("--prompt", **TEXT, help="text to continue (default: a new file)")
    add("--prompt-file", **FILE, help="file with that text (default: none)")
    add("--stop", **TEXT, help="end before this text (default: none)")
    add("--num-samples", type=int, default=1, metavar="INT",
        help="texts to write (default 1, printed as it is written)")
    add("--no-cache", **SWITCH, help="read all in view for each character")
    add("--device", default="auto", help="as for train (default auto)")
    add("--dtype", default="auto", help="as for train (default auto)")
    add = add_command(commands, "evaluate", run_evaluate)
    add("--checkpoint", **FILE, help="weights (default: the newest run's)")
    add("--data", **FOLDER, help=f"prepared text (default {DATA})")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: sys.argv); return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # any alphabet, on any system
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        args = vars(build_parser().parse_args(argv))
        return args.pop("run_command")(**args)
    except BrokenPipeError:  # whoever reads our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except MiniGPTError as error:
        message = str(error)
    except Timeout as error:
        message = (f"another process trains in {Path(error.lock_file).parent}: "
                   "wait for its end, or name another folder with --run")
    except (OSError, UnicodeError, SafetensorError) as error:
        message = f"{error}: check the file, its rights, and the disk"
    except (MemoryError, RuntimeError) as error:
        if "memory" not in repr(error).lower():
            raise
        message = (f"out of memory ({error}): halve --batch-size or --context-"
                   "length, to write --num-samples or --max-new-tokens")
    print("minigpt: error:", *message.split(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and tidy up
    sys.exit(main())


# tangled: ee503ac319190683c0deb330affe99e4843ccdb14a413259da66b2f0e846191e
