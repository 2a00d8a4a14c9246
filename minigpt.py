"""MiniGPT: a GPT that learns to write Python, one character at a time.

    python minigpt.py train       learn from the Python standard library
    python minigpt.py generate    write Python
    python minigpt.py --help      all the rest

Generated from the chapters of a book, book/NN_*.md: edit those, then run
`python book/_tools/tangle.py`. Their order is the order here:

    1 a program you can read     6 many heads     12 learning
    2 text into numbers          7 the block      13 checkpoints
    3 data                       8 MiniGPT        14 the training run
    4 embeddings                 9 choosing       16 the KV cache
    5 attention                 10 the machine    17 the program

One alphabet names the sizes of arrays: B batch, T time (characters),
C channels (d_model), H heads, D head size (C / H), V vocabulary.
"""

import argparse
import bz2
import gzip
import hashlib
import json
import lzma
import math
import os
import platform
import shlex
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from itertools import takewhile, tee
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

__version__ = "0.2.0"


class MiniGPTError(Exception):
    """Something the user can put right; the message says what, and how."""


def require(condition: bool, message: str) -> None:
    """Raise MiniGPTError with this message unless the condition holds."""
    if not condition:
        raise MiniGPTError(message)


def brief(error: Exception) -> str:
    """What an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


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
    sample_prompt: str = setting("", "how samples begin; '': as documents do")
    checkpoint_interval: int = setting(250, "steps between checkpoints", 1)
    seed: int = setting(0, "number all random choices follow", 0, 2**32 - 1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    dtype: str = setting("auto", "auto, float32 or bfloat16")


PRESETS = {
    "full": {},
    "laptop": dict(
        context_length=128, d_model=192, n_layers=2, n_heads=6, dropout=0.0,
        batch_size=6, max_steps=4500, learning_rate=2e-3, warmup_steps=225,
        min_learning_rate=2e-5, eval_interval=300, sample_interval=300,
        checkpoint_interval=300),
    "tiny": dict(
        context_length=64, d_model=48, n_layers=2, n_heads=3, dropout=0.0,
        batch_size=16, max_steps=300, learning_rate=4e-3, warmup_steps=20,
        min_learning_rate=4e-5, eval_interval=50, sample_interval=100,
        checkpoint_interval=100, eval_windows=64),
}


def pop_config(kind: type, values: dict):
    """A config made of those values that are its fields; they are removed."""
    names = [f.name for f in fields(kind) if f.name in values]
    return kind(**{name: values.pop(name) for name in names})


def make_configs(preset: str, **changes) -> tuple[ModelConfig, TrainConfig]:
    """The two configs of a preset, with single fields changed by name."""
    require(preset in PRESETS, f"there is no preset {preset!r}: choose one of "
            f"{', '.join(PRESETS)}")
    values = PRESETS[preset] | changes
    configs = pop_config(ModelConfig, values), pop_config(TrainConfig, values)
    require(not values, f"there is no setting {', '.join(values)}: see --help")
    return configs


# 2. Text into numbers (book/02_tokenizer.md) ---------------------------------

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
PAD, EOS, UNK = range(len(SPECIAL_TOKENS))


def code_points(text: str) -> np.ndarray:
    """The Unicode code point of each character: uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


class Tokenizer:
    """Text to ids and back: `<pad>`, `<eos>`, `<unk>`, then characters."""

    kind = "characters"  # its name in the header of a checkpoint
    eos, never = EOS, (PAD, UNK)  # what ends a text, what is never written

    def __init__(self, characters: str):
        self.characters = "".join(sorted(set(characters)))
        self.vocab_size = len(SPECIAL_TOKENS) + len(self.characters)
        codes = code_points(self.characters)
        dtype = np.min_scalar_type(self.vocab_size - 1)  # unsigned
        self.to_id = np.full(int(codes.max(initial=0)) + 2, UNK, dtype)
        self.to_id[codes] = np.arange(len(SPECIAL_TOKENS), self.vocab_size)
        self.to_code = np.concatenate([[0, 0, 0xFFFD], codes]).astype("<u4")

    def encode(self, text: str, errors: str = "strict") -> np.ndarray:
        """The ids of a text, unsigned (len(text),): never `<pad>` or `<eos>`.

        An unknown character raises MiniGPTError, or is `<unk>` if "replace".
        """
        ids = self.to_id.take(code_points(text), mode="clip")
        if errors != "replace" and UNK in ids:
            at = int((ids == UNK).argmax())
            raise MiniGPTError(f"the model does not know {text[at]!r} at "
                               f"position {at}: remove it, or train on it")
        return ids

    def decode(self, ids) -> str:
        """The text of ids (n,): `<unk>` is U+FFFD, `<pad>` and `<eos>` none."""
        ids = np.asarray(ids, np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)].tolist()
        require(not wrong, f"id {wrong[:1]} is not in the vocabulary: choose "
                f"ids from 0 to {self.vocab_size - 1}")
        codes = self.to_code[ids[ids > EOS]]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")

    def stream(self, steps: Iterable, read=()) -> Iterator[str]:
        """The text of ids that come bit by bit, after those that were read."""
        return map(self.decode, steps)


# 3. Data (book/03_data.md) ---------------------------------------------------

HERE = Path(__file__).parent if "__file__" in globals() else Path("..")
PACKED = HERE / "minigpt_files"  # what `pip install` puts beside this module
FILES = PACKED if PACKED.exists() else HERE
CORPUS = FILES / "data" / "python-stdlib.tar.xz"

ZIPS = (".zip", ".whl", ".egg")
TARS = (".tar", ".tgz", ".tbz", ".tbz2", ".txz")
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_files(source: Path, skipped: Counter
               ) -> Iterator[tuple[str, Callable]]:
    """Yield (name, open) for each file in a folder or archive, or the file.

    `open()` gives a binary file. No name in an archive is ever used as a path.
    Folders that are linked or cannot be read are counted in `skipped`.
    """
    kinds = [suffix.lower() for suffix in ["", *source.suffixes][-2:]]
    if source.is_dir():
        def note(error: OSError) -> None:
            skipped["folder not readable"] += 1

        for folder, inner, names in os.walk(source, onerror=note):
            inner[:] = filter(is_wanted, inner)  # walk goes into these alone
            if linked := sum(Path(folder, name).is_symlink() for name in inner):
                skipped["linked folder, not followed"] += linked
            for path in (Path(folder, name) for name in names):
                if path.is_file() or not path.exists():  # no device, no pipe
                    name = path.relative_to(source).as_posix()
                    yield name, partial(path.open, "rb")
    elif kinds[-1] in ZIPS:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if not stat.S_ISLNK(member.external_attr >> 16):
                    yield member.filename, partial(archive.open, member)
    elif kinds[-1] in TARS or kinds[0] == ".tar":
        with tarfile.open(source) as archive:
            for member in filter(tarfile.TarInfo.isfile, archive):
                yield member.name, partial(archive.extractfile, member)
            archive.fileobj.seek(archive.offset)
            rest = archive.fileobj.read()  # to the end: checksums stand there
            require(rest[:512] == bytes(512), "it is cut short")
    else:  # any ending will do
        yield "", partial(COMPRESSED.get(kinds[-1], open), source, "rb")


def unify(text: str) -> str:
    """The text without a byte order mark, its lines ended as on Unix."""
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(open_file: Callable) -> tuple[str, str]:
    """(text, "") of a document in UTF-8, or ("", why it is of no use)."""
    try:
        with open_file() as file:
            text = unify(str(file.read(), "utf-8"))
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        return "", f"not UTF-8: byte {error.start:,} is 0x{wrong:02x}"
    except OSError as error:
        require(error.errno is not None, str(error))
        return "", "not readable"
    if "\0" in text:
        return "", "binary"
    return text, "" if text else "empty"


LEFT_OUT = ("site-packages", "node_modules", "__pycache__", "__MACOSX")


def is_wanted(folder: str) -> bool:
    """Whether files in a folder of this name are read: not in a hidden one."""
    hidden = folder.startswith(".") and folder not in (".", "..")
    return not hidden and folder not in LEFT_OUT


def read_documents(source: Path, suffixes: tuple[str, ...]
                   ) -> tuple[list[str], Counter]:
    """The different texts of a source, and what was skipped, by reason.

    They are in the order of their sha256, the same on every machine. Raises
    MiniGPTError if the source is one file, and of no use.
    """
    texts, skipped = {}, Counter()
    for name, open_file in open_files(Path(source), skipped):
        *folders, _ = name.replace("\\", "/").split("/")
        if not all(map(is_wanted, folders)) or (
                name and not name.lower().endswith(suffixes)):
            continue
        text, reason = read_text(open_file)
        require(not reason or name != "", f"it is {reason}")
        key = hashlib.sha256(text.encode()).digest()
        if not reason and key in texts:
            reason = "duplicate"
        if reason:
            skipped[reason.partition(":")[0]] += 1
        else:
            texts[key] = text
    return [texts[key] for key in sorted(texts)], skipped


def pieces(text: str, size: int = 2**20) -> Iterator[str]:
    """A text in pieces, so that what is made of each needs little memory."""
    return (text[i:i + size] for i in range(0, len(text), size))


def choose_vocabulary(texts: list[str]) -> Tokenizer:
    """A tokenizer for all characters but those rarer than 1 in 100,000."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for text in texts:
        for piece in pieces(text):
            found = np.bincount(code_points(piece))
            counts[:len(found)] += found
    frequent = np.flatnonzero(counts >= max(1, counts.sum() / 100_000))
    return Tokenizer("".join(map(chr, frequent)))


@dataclass(frozen=True)
class Corpus:
    """Text as ids of one or two bytes: a split to learn from, one to test."""

    tokenizer: Tokenizer
    train: np.ndarray
    val: np.ndarray

    def fingerprint(self) -> str:
        """The sha256 of the vocabulary and of both splits."""
        sha256 = hashlib.sha256(self.tokenizer.characters.encode())
        for ids in (self.train, self.val):
            sha256.update(np.ascontiguousarray(ids))
        return sha256.hexdigest()


def choose_cut(ends: np.ndarray) -> int:
    """Where to cut ids whose documents end at `ends`: near nine tenths.

    Behind a document, if that leaves 5 to 15 % of the ids to test on.
    """
    n = int(ends[-1])
    fair = ends[(100 * ends >= 85 * n) & (100 * ends <= 95 * n)]
    if len(fair) == 0:
        return n * 9 // 10
    return int(fair[np.abs(10 * fair - 9 * n).argmin()])


def read_text_files(source: Path, suffix: str) -> tuple[list[str], str]:
    """The texts of a source, and a report of what was skipped.

    Raises MiniGPTError if it is missing or damaged, or has no text.
    """
    suffixes = suffix.replace(",", " ").lower().split()
    require(source.exists(), f"there is no file or folder {source}: check the "
            "path (what has an address, not a path, must be downloaded first)")
    require(suffixes != [], f"no endings of files in --suffix {suffix!r}: give "
            "some, as --suffix .py,.txt")
    try:
        texts, skipped = read_documents(
            source, tuple(suffix.lstrip("*") for suffix in suffixes))
    except Exception as error:  # of a damaged archive, it may be any
        raise MiniGPTError(f"{source} cannot be read ({brief(error)}): name a "
                           "folder, or a whole file or archive, of text in "
                           "UTF-8") from None
    report = "".join(f"; skipped {n}: {why}" for why, n in skipped.items())
    if not texts:
        found = Counter(Path(name).suffix or name
                        for name, _ in open_files(source, Counter()))
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.most_common(5))
        raise MiniGPTError(
            f"{source} has no text in files *{suffix}{report}; it has "
            f"{kinds or 'no files'}: name another source, or see --suffix")
    return texts, report


def read_corpus(source: Path = CORPUS, suffix: str = ".py",
                tokenizer: Tokenizer | None = None) -> Corpus:
    """Read, encode and split the text of a source; print what was found.

    Without a tokenizer, one is made of the text. Raises MiniGPTError for a
    source without text, or with one that the tokenizer does not know.
    """
    source = Path(source)
    texts, report = read_text_files(source, suffix)
    tokenizer = tokenizer or choose_vocabulary(texts)
    ends = np.cumsum([len(text) + 1 for text in texts])
    ids, at = np.full(ends[-1], EOS, tokenizer.to_id.dtype), 0
    for text, end in zip(texts, ends):
        for piece in pieces(text):
            ids[at:at + len(piece)] = tokenizer.encode(piece, "replace")
            at += len(piece)
        at = end  # behind the <eos>
    unknown, cut = np.count_nonzero(ids == UNK), choose_cut(ends)
    how = "between two documents" if cut in ends else "within a document"
    print(f"{source}: {len(texts):,} documents, {len(ids) - len(texts):,} "
          f"characters ({unknown:,} of them <unk>), split {how}: "
          f"{cut:,} ids to learn from, {len(ids) - cut:,} to test{report}")
    require(20 * unknown <= len(ids), f"{unknown:,} of {len(ids):,} characters "
            "are not in the vocabulary of the model: begin without --init")
    return Corpus(tokenizer, ids[:cut], ids[cut:])


@lru_cache(maxsize=2)
def shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    """The numbers 0 to n - 1 in the random order of this epoch: (n,)."""
    return np.random.default_rng([seed, epoch]).permutation(n)


IGNORED = -100  # as a target: nothing is asked here


class Dataset:
    """The ids of one split, as windows of context_length and a target each."""

    def __init__(self, ids: np.ndarray, context_length: int):
        """Raises MiniGPTError if there is not one window."""
        self.ids, self.context_length = ids, context_length
        self.n_chunks = (len(ids) - 1) // context_length
        require(self.n_chunks > 0, f"a split has {len(ids)} ids, a window takes"
                f" {context_length + 1}: more --data or less --context-length")

    def windows(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T), int64; `<pad>`, IGNORED beyond the end."""
        places = starts[:, None] + np.arange(self.context_length + 1)
        rows = np.take(self.ids, places, mode="clip").astype(np.int64)
        beyond = places >= len(self.ids)
        inputs = torch.from_numpy(np.where(beyond, PAD, rows))
        targets = torch.from_numpy(np.where(beyond, IGNORED, rows))
        return inputs[:, :-1], targets[:, 1:]

    def batch(self, number: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Batch `number` of an endless series: inputs and targets (B, T).

        A window is a chunk; if a file ends in it, every other one begins there.
        """
        n, places = self.n_chunks, range(number * size, (number + 1) * size)
        chunks = [shuffled(n, seed, place // n)[place % n] for place in places]
        starts = self.context_length * np.array(chunks)
        rows = self.ids[starts[:, None] + np.arange(self.context_length)]
        ends = (rows == EOS).argmax(1)  # 0 where no file ends
        starts += ends * (np.array(places) % 2)  # every other one
        last = len(self.ids) - 1 - self.context_length
        return self.windows(np.minimum(starts, last))

    def starts(self, count: int | None = None) -> np.ndarray:
        """`count` evenly spaced starts, or those that cover every token."""
        last, T = len(self.ids) - 1, self.context_length
        if count is None:
            return np.arange(0, last, T)
        return np.linspace(0, last - T, count).astype(int)


# 4. Embeddings (book/04_embeddings.md) ---------------------------------------

def waves(T: int, C: int) -> Tensor:
    """Sines and cosines (T, C) of positions (Vaswani et al., 2017)."""
    angles = torch.arange(T)[:, None] * 10_000 ** (-torch.arange(0, C, 2) / C)
    hands = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (T, C/2, 2)
    return hands.flatten(1)[:, :C] / math.sqrt(2)


class Embeddings(nn.Module):
    """Ids to vectors: a learned row per token plus one per position."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        T, C = config.context_length, config.d_model
        self.token_embedding = nn.Embedding(config.vocab_size, C)
        self.position_embedding = nn.Embedding.from_pretrained(
            waves(T, C), freeze=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        """Vectors (B, T, C) of ids (B, T) that begin at position start."""
        end, room = start + ids.size(1), self.position_embedding.num_embeddings
        assert end <= room, f"{end} characters, the context has {room}"
        positions = self.position_embedding.weight[start:end]  # (T, C)
        return self.dropout(self.token_embedding(ids) + positions)


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
        if "position" in name:  # they are waves
            continue
        if parameter.dim() == 2:
            std = 1 / math.sqrt(parameter.size(1))
            if "embedding" in name:  # as large as the waves
                std = 0.5
            elif name.endswith("proj.weight"):  # 2 L of them add to a stream
                std /= math.sqrt(2 * model.config.n_layers)
            elif name == "head.weight":  # first guesses are nearly equal
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
    temperature: float = setting(0.8, "0: likeliest; 1: as learned", 0, 1e6)
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
    """Where the model begins to read: 0, then in jumps of half a context."""
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


def generate(next_logits: NextLogits, ids: Tensor, config: GenerateConfig,
             eos: int = EOS, never: Sequence[int] = (PAD, UNK)
             ) -> Iterator[Tensor]:
    """Continue each row of ids (B, n); yield int64 (B,) per step.

    A row ends with the id `eos`, and repeats it until all have ended or
    max_new_tokens are written. The ids in `never` are never chosen.
    """
    B, n = ids.shape
    assert n > 0, "there is nothing to continue: begin with <eos>"
    generator = torch.Generator().manual_seed(config.seed)
    text = F.pad(ids, (0, config.max_new_tokens), value=eos)
    ended = torch.zeros(B, dtype=torch.bool)
    for i in range(config.max_new_tokens):
        banned = [*never]
        if i < config.min_new_tokens and eos >= 0:  # -1: nothing ends a text
            banned.append(eos)
        logits = next_logits(text[:, :n + i]).float().cpu()
        logits = logits.index_fill(-1, torch.tensor(banned).long(), -math.inf)
        chosen = choose(logits, config, generator).masked_fill(ended, eos)
        ended |= chosen == eos
        if ended.all():
            return
        yield chosen
        text[:, n + i] = chosen.to(text.device)


# 10. The machine (book/10_machine.md) ----------------------------------------

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
    require(device.split(":")[0] in ("cpu", "cuda", "mps"), f"there is no "
            f"device {device!r}: choose auto, cpu, cuda, cuda:N or mps")
    try:
        where = torch.zeros(2, device=device).cumsum(0).device
    except (RuntimeError, AssertionError) as error:
        reason = brief(error)
        raise MiniGPTError(f"device {device!r} cannot be used here ({reason}): "
                           "choose auto, cpu, cuda, cuda:N or mps") from None
    if dtype == "auto":
        cuda = where.type == "cuda"
        new = cuda and torch.cuda.get_device_capability(where) >= (8, 0)
        dtype = "bfloat16" if new else "float32"
    require(dtype in ("float32", "bfloat16"), f"there is no dtype {dtype!r} "
            "here: choose auto, float32 or bfloat16")
    return Machine(where, getattr(torch, dtype))


PROBE = """
import time, torch

def fastest(x):
    times = []
    for _ in range(9):
        start = time.perf_counter()
        x @ x
        times.append(time.perf_counter() - start)
    return min(times)

x = torch.ones(512, 512)
print(fastest(x) > 1.3 * fastest(x.bfloat16()))
"""


def bfloat16_is_fast() -> bool:
    """Whether this CPU multiplies bfloat16 clearly faster than float32.

    Tried in another process: where the instructions are announced and do
    not work, it dies.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return False
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True)
    return probe.returncode == 0 and b"True" in probe.stdout


def seed_dropout(seed: int, step: int, micro_step: int) -> None:
    """Seed PyTorch from the place in the run, so that no state is saved."""
    place = np.random.SeedSequence([seed, step, micro_step])
    torch.manual_seed(int(place.generate_state(1)[0]))


# 12. Learning (book/12_learning.md) ------------------------------------------

def cross_entropy(logits: Tensor, targets: Tensor, reduction="mean") -> Tensor:
    """Nats of logits (B, T, V) for targets (B, T), IGNORED ones left out."""
    logits = logits.flatten(0, 1).float()  # (B, T, V) -> (B T, V)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED,
                           reduction=reduction)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) that decays matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    betas = config.beta1, config.beta2
    return torch.optim.AdamW(groups, config.learning_rate, betas, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step (from 0): linear warm-up, then half a cosine."""
    high = config.learning_rate
    low = min(high, config.min_learning_rate)
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
    total, k = 0.0, config.grad_accum
    for micro in range(k):
        batch = dataset.batch(step * k + micro, config.batch_size, config.seed)
        inputs, targets = (ids.to(machine.device) for ids in batch)
        seed_dropout(config.seed, step, micro)
        with machine.autocast():
            loss = cross_entropy(model(inputs), targets) / k
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip).item()
    require(math.isfinite(total) and math.isfinite(norm), f"step {step + 1}: "
            f"loss {total}, gradient norm {norm}: --resume from the last check"
            "point with a lower --learning-rate, or --dtype float32")
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
        characters += int((targets != IGNORED).sum())
    return total / characters


# 13. Checkpoints (book/13_checkpoints.md) ------------------------------------

def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes, wholly or not at all."""
    temporary = path.with_name("tmp-" + path.name)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what a new file has here
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself must reach the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):
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
    """A run: what is in a checkpoint file. (Its text lies beside it.)"""

    model: MiniGPT
    optimizer: torch.optim.AdamW
    config: TrainConfig
    tokenizer: Tokenizer
    fingerprint: str  # of the data
    before: list[int] = field(default_factory=lambda: [EOS])  # each prompt
    step: int = 0  # how many are done
    best_loss: float | None = None  # nats per character, on `val`

    def ids(self, prompt: str) -> list[int]:
        """What the model reads to continue a prompt: at least one id."""
        ids = self.before + self.tokenizer.encode(prompt).tolist()
        return ids or [EOS]

    def save(self, path: Path, moments: bool = True) -> None:
        """Write a file; once a step is done, with the optimizer's moments."""
        tensors = {}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p
            if moments and self.step > 0:
                for kind in MOMENTS:
                    tensors[f"{kind}.{name}"] = self.optimizer.state[p][kind]
        tensors = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        meta = dict(format=FORMAT, model=asdict(self.model.config),
                    train=asdict(self.config), step=self.step,
                    best_loss=self.best_loss, fingerprint=self.fingerprint,
                    before=self.before, tokenizer=self.tokenizer.kind,
                    characters=self.tokenizer.characters)
        meta["sha256"] = digest(meta, tensors)
        texts = {"minigpt": json.dumps(meta, sort_keys=True)}
        write_atomically(Path(path), lambda p: save_file(tensors, p, texts))


class WithoutDrawing(torch.overrides.TorchFunctionMode):
    """Within `with`, layers are made without drawing their first weights."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__.endswith(("normal_", "uniform_")):
            return kwargs.get("tensor", *args[:1])
        return func(*args, **kwargs)


TOKENIZERS = {Tokenizer.kind: Tokenizer}  # a companion may add others


def rebuild_model(config: ModelConfig, tensors: dict[str, Tensor]) -> MiniGPT:
    """A model of the tensors `model.NAME`; MiniGPTError if any do not fit."""
    with torch.device("meta"), WithoutDrawing():
        model = MiniGPT(config).eval()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    kinds = ["model"]
    if any(name.startswith(MOMENTS) for name in tensors):
        kinds += MOMENTS
    wanted = {f"{kind}.{name}": shape for kind in kinds
              for name, shape in shapes.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in wanted | found:
        here, there = wanted.get(name), found.get(name)
        require(here == there, f"{name} is {there}, and must be {here}")
    weights = {name: tensors[f"model.{name}"] for name in shapes}
    model.load_state_dict(weights, assign=True)
    return model


def rebuild(meta: dict, tensors: dict[str, Tensor]) -> Checkpoint:
    """A run from what its file holds; MiniGPTError if that does not fit."""
    step, loss, before = meta["step"], meta["best_loss"], meta["before"]
    characters, fingerprint = meta["characters"], meta["fingerprint"]
    require(type(step) is int and step >= 0 and type(before) is list
            and type(loss) in (float, type(None)) and type(characters) is str
            and type(fingerprint) is str, "values of wrong types")
    shape, config = ModelConfig(**meta["model"]), TrainConfig(**meta["train"])
    tokenizer = TOKENIZERS[meta.get("tokenizer", Tokenizer.kind)](characters)
    ids = range(shape.vocab_size)
    require(tokenizer.vocab_size == len(ids), "a vocabulary of another size")
    require(all(type(i) is int and i in ids for i in before), f"no ids: "
            f"{before}")
    for name, tensor in tensors.items():
        require(bool(tensor.isfinite().all()), f"{name} is not finite")
        tensors[name] = tensor.to(torch.float32, copy=True)
    model = rebuild_model(shape, tensors)
    optimizer = make_optimizer(model, config)
    for name, p in model.named_parameters():
        for kind in MOMENTS:
            if f"{kind}.{name}" in tensors:
                optimizer.state[p]["step"] = torch.tensor(float(step))
                optimizer.state[p][kind] = tensors[f"{kind}.{name}"]
    return Checkpoint(model, optimizer, config, tokenizer, fingerprint, before,
                      step, loss)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint: on the CPU, in float32, ready to use.

    Raises MiniGPTError if the file is missing, foreign or damaged.
    """
    require(Path(path).is_file(), f"{path} is not a file: check the path, or "
            "train first")
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["minigpt"])
            require(meta["format"] == FORMAT, f"format {meta['format']}, which "
                    f"this program does not know (it knows {FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        require(meta.pop("sha256") == digest(meta, tensors), "wrong sha256")
        if meta.get("tokenizer", Tokenizer.kind) in TOKENIZERS:
            return rebuild(meta, tensors)
    except Exception as error:  # of a foreign file, it may be any
        raise MiniGPTError(f"{path} is not a whole MiniGPT checkpoint ("
                           f"{brief(error)}): choose another file") from None
    raise MiniGPTError(f"{path} has a tokenizer of the kind {meta['tokenizer']}"
                       ", not ours: use it with gpt2.py generate")


# 14. The training run (book/14_run.md) ---------------------------------------

IDS = ("train.npy", "val.npy")
LAST, BEST = "last.safetensors", "best.safetensors"
RESULTS = (BEST, "metrics.jsonl", "samples.jsonl", "run.json")


def start_run(folder: Path, state: Checkpoint, corpus: Corpus) -> None:
    """Write what a run begins with, in place of any run in the folder."""
    for name in (*RESULTS, LAST):
        (folder / name).unlink(missing_ok=True)
    for name, ids in zip(IDS, (corpus.train, corpus.val)):
        write_atomically(folder / name, partial(np.save, arr=ids))
    state.save(folder / LAST)


@dataclass(kw_only=True)
class Run(Checkpoint):
    """A run in progress; `seconds` is the time of its training steps."""

    folder: Path
    train: Dataset
    val: Dataset
    machine: Machine
    seconds: float = 0.0
    notice = "\nstopping after this step; again to stop without saving\n"

    def log(self, name: str, **record) -> None:
        """Append a record to NAME.jsonl, as one line, with the step."""
        line = json.dumps({"step": self.step, **record})
        with open(self.folder / f"{name}.jsonl", "a", encoding="utf-8") as f:
            f.write(line + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the run anew."""
        write_atomically(self.folder / name,
                         lambda path: path.write_text(text, "utf-8"))

    def learn(self) -> tuple[float, float]:
        """Change the weights once: loss (nats) and gradient norm."""
        return training_step(self.model, self.optimizer, self.train, self.step,
                             self.config, self.machine)

    def is_over(self, signal_number: int, deadline: float) -> bool:
        """Whether a signal (0: none) or the clock ends it after this step."""
        return signal_number > 0 or time.monotonic() >= deadline

    def bar(self) -> tqdm:
        """A progress bar in characters, shown on terminals alone."""
        size = characters_per_step(self)
        return tqdm(total=self.config.max_steps * size,
                    initial=self.step * size, unit="char", unit_scale=True,
                    disable=None)


def trim(log: Path, step: int) -> list[dict]:
    """Drop the records of a log after a checkpoint's; return the others."""
    text = log.read_text("utf-8") if log.exists() else ""
    records = []
    for line in text.splitlines():
        with suppress(ValueError, TypeError, KeyError):  # torn, or damaged
            record = json.loads(line)
            if record["step"] <= step and step > 0:  # 0 is saved unlogged
                records.append(record)
    kept = "".join(json.dumps(record) + "\n" for record in records)
    if kept != text:
        write_atomically(log, lambda path: path.write_text(kept, "utf-8"))
    return records


def characters_per_step(run: Run) -> int:
    """How many characters a run reads in a step."""
    windows = run.config.batch_size * run.config.grad_accum
    return windows * run.train.context_length


def pace(run: Run) -> str:
    """How far a run is, in characters, how fast, and the time left."""
    size = characters_per_step(run)
    return tqdm.format_meter(
        run.step * size, run.config.max_steps * size, run.seconds, ncols=0,
        unit="char", unit_scale=True)


def plan(run: Run) -> str:
    """What a run is about to do, in one line."""
    steps, size = run.config.max_steps, characters_per_step(run)
    epochs = steps * size / len(run.train.ids)
    return (f"{count_parameters(run.model):,} parameters, a vocabulary of "
            f"{run.tokenizer.vocab_size:,}; {steps:,} steps of {size:,} "
            f"characters ({epochs:.2g} epochs), learning rate up to "
            f"{run.config.learning_rate:g}")


def check_shape(config: ModelConfig, wanted: dict) -> None:
    """Raise MiniGPTError if a setting that was typed contradicts a model."""
    for name, known in asdict(config).items():
        value = wanted.get(name, known)
        if name == "d_ff" and value == 0:
            value = 4 * config.d_model
        require(value == known, f"--{name.replace('_', '-')} {value}: the model"
                f" has {known}: leave it out, or begin another run with --run")


def open_ids(folder: Path, saved: Checkpoint) -> list[Dataset]:
    """The two splits of a run; MiniGPTError if they are not what it read."""
    found = None
    with suppress(Exception):  # of a damaged file, it may be any
        ids = [np.load(folder / name, mmap_mode="r") for name in IDS]
        found = Corpus(saved.tokenizer, *ids).fingerprint()
    require(found == saved.fingerprint, f"{folder}: {' and '.join(IDS)} are "
            f"not those of {LAST}: put them back, or begin another run")
    return [Dataset(x, saved.model.config.context_length) for x in ids]


def open_run(folder: Path, **changes) -> Run:
    """The run in a folder, as its last checkpoint was; settings may change.

    Raises MiniGPTError for a setting of the model, or if files do not fit.
    """
    folder = Path(folder)
    saved = load_checkpoint(folder / LAST)
    require(saved.step == 0 or bool(saved.optimizer.state), f"{folder / LAST} "
            "has weights alone: use them with generate, or train --init")
    shape, old = saved.model.config, asdict(saved.config)
    check_shape(shape, changes)
    settings = asdict(shape) | old | changes  # all fields: of no preset
    _, config = make_configs("full", **settings)
    saved.ids(config.sample_prompt)  # raises if the model does not know it
    machine = pick_machine(config.device, config.dtype)
    optimizer = make_optimizer(saved.model.to(machine.device), config)
    optimizer.load_state_dict(saved.optimizer.state_dict() | {
        "param_groups": optimizer.state_dict()["param_groups"]})
    saved.config, saved.optimizer = config, optimizer
    train, val = open_ids(folder, saved)
    trim(folder / "samples.jsonl", saved.step)
    records = trim(folder / "metrics.jsonl", saved.step)
    seconds = max((r.get("seconds", 0.0) for r in records), default=0.0)
    run = Run(**vars(saved), folder=folder, train=train, val=val,
              machine=machine, seconds=seconds)
    new = {n: v for n, v in asdict(config).items() if v != old[n]}
    if new:
        run.save(folder / LAST)
        run.log("metrics", changes=new, seconds=run.seconds)
        print(f"step {run.step}, from here on with {new}")
    return run


STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM,  # Windows has no SIGHUP
                getattr(signal, "SIGHUP", signal.SIGTERM)}


class StopSignal:
    """Within `with`, `number` is that of the first stop signal, or 0.

    The next one acts as it always did.
    """

    def __init__(self, notice: str = ""):
        self.number, self.notice, self.handlers = 0, notice, {}

    def __enter__(self):
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if (threading.current_thread() is threading.main_thread()
                    and handler not in (signal.SIG_IGN, None)):
                self.handlers[number] = signal.signal(number, self.note)
        return self

    def note(self, number, frame):
        self.number = number
        with suppress(OSError):  # print() may be at work: it is not used here
            os.write(2, self.notice.encode())
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def tell(text: str) -> None:
    """Print a line above the progress bar, if there is anybody to read it."""
    with suppress(OSError):
        tqdm.write(text)


def measure(run: Run) -> None:
    """Evaluate, log and print the loss; keep the weights if it is a best."""
    loss = evaluate(run.model, run.val, run.machine, run.config.eval_windows)
    run.log("metrics", val_loss=loss, seconds=run.seconds)
    tell(f"step {run.step}: validation loss {loss:.3f} nats "
         f"({loss / math.log(2):.3f} bits) per character; {pace(run)}")
    if run.step > 0 and loss < (run.best_loss or math.inf):
        run.best_loss = loss
        run.save(run.folder / BEST, moments=False)


SAMPLE = GenerateConfig(max_new_tokens=240, min_new_tokens=1)


def show_samples(run: Run, reader: Callable) -> None:
    """Write 8 texts that begin alike; log them all, print the first."""
    prompt = run.config.sample_prompt
    rows = torch.tensor([run.ids(prompt)] * 8, device=run.machine.device)
    steps = torch.stack([*generate(reader(run.model), rows, SAMPLE)], dim=1)
    texts = [prompt + run.tokenizer.decode(row) for row in steps]
    run.log("samples", texts=texts)
    tell(f"\n{texts[0]}\n")


def write_record(run: Run, **more) -> None:
    """Write run.json: what the run is, and what it took so far."""
    record = dict(
        model=asdict(run.model.config), train=asdict(run.config),
        step=run.step, best_loss=run.best_loss, machine=str(run.machine),
        fingerprint=run.fingerprint, platform=platform.platform(),
        python=platform.python_version(), torch=torch.__version__,
        training_seconds=round(run.seconds, 1), **more)
    run.write("run.json", json.dumps(record, indent=2) + "\n")


def finish(run: Run) -> None:
    """Measure a run's last weights on the whole of `val`; say what became."""
    done = run.step * characters_per_step(run)
    seconds = run.seconds / done * len(run.val.ids) / 3
    tell(f"finished: {run.step} steps in {run.seconds / 60:.1f} minutes; the "
         f"weights are in {run.folder}\nreading the whole validation split, "
         f"about {seconds:.0f} s (Ctrl-C leaves it out)")
    loss = evaluate(run.model, run.val, run.machine)
    write_record(run, whole_val_loss=loss)
    tell(f"{loss:.3f} nats ({loss / math.log(2):.3f} bits) per character of the"
         " whole validation split; write on the book's page Playground, or "
         "with:")


def one_step(run: Run) -> float:
    """One training step, timed, counted and logged: its loss in nats."""
    start, rate = time.perf_counter(), learning_rate(run.step, run.config)
    loss, norm = run.learn()
    run.seconds += time.perf_counter() - start
    run.step += 1
    run.log("metrics", loss=loss, grad_norm=norm, learning_rate=rate,
            seconds=run.seconds)
    return loss


def train(run: Run, deadline: float = math.inf, reader=uncached) -> int:
    """Train to the last step, or until a signal, or time.monotonic's deadline.

    Returns the signal's number, 0 if there was none; `reader` says how
    samples are read. Raises MiniGPTError if a loss is not finite.
    """
    config, over = run.config, False
    with StopSignal(run.notice) as stop, run.bar() as bar:
        if run.step == 0:
            measure(run)
        while run.step < config.max_steps and not over:
            loss = one_step(run)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(characters_per_step(run))
            done = run.step == config.max_steps
            if done or run.step % config.eval_interval == 0:
                measure(run)
            if done or run.step % config.sample_interval == 0:
                show_samples(run, reader)
            over = run.is_over(stop.number, deadline)
            if done or over or run.step % config.checkpoint_interval == 0:
                run.save(run.folder / LAST)
                write_record(run)
    return stop.number


# 16. The KV cache (book/16_kv_cache.md) --------------------------------------

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


def for_writing(model: MiniGPT, machine: Machine) -> MiniGPT:
    """Move a model to a machine, stored as is fastest for one position."""
    model = model.to(machine.device, machine.dtype)
    if machine == Machine(torch.device("cpu"), torch.float32):
        for layer in model.modules():
            if isinstance(layer, nn.Linear):  # stored (in, out), seen as before
                layer.weight.data = layer.weight.data.T.contiguous().T
    return model


# 17. The program (book/17_program.md) ----------------------------------------

SHIPPED = FILES / "checkpoints" / "pretrained.safetensors"
RUNS = Path("checkpoints")


@dataclass(frozen=True)
class RunOptions(Settings):
    """What `train` may be told, besides the settings of model and training."""

    data: str = setting("", "folder, file or archive to learn from; '': ours")
    suffix: str = setting(".py", "endings of the files to read: .py,.txt")
    preset: str = setting("auto", f"settings: auto, {', '.join(PRESETS)}")
    run: str = setting("", f"folder of the run; '': {RUNS}/PRESET")
    resume: bool = setting(False, "go on with the run, or start it")
    overwrite: bool = setting(False, "replace the run")
    init: str = setting("", "checkpoint whose weights to begin with")
    max_minutes: float = setting(math.inf, "stop after so many minutes", 0)


@dataclass(frozen=True)
class WriteOptions(GenerateConfig):
    """What `generate` may be told: how to choose characters, and the rest."""

    checkpoint: str = setting("", "file or run; '': the newest run, or ours")
    prompt: str = setting("", "text to continue; -: read it from stdin")
    stop: str = setting("", "end before this text; '': none")
    num_samples: int = setting(1, "texts to write", 1, 2**16)
    seed: int = setting(-1, "number all random choices follow; -1: another "
                        "each time", -1, 2**32 - 1)
    cache: bool = setting(True, "remember what was read")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps")
    dtype: str = setting("auto", "auto, float32 or bfloat16")

    def __post_init__(self):
        super().__post_init__()
        if self.seed < 0:
            drawn = int(np.random.default_rng().integers(2**32))
            object.__setattr__(self, "seed", drawn)


def flag(f) -> dict:
    """What argparse is told of a field: its type, and its line of help."""
    values = [] if f.default == "" else [str(f.default)]
    values += [f"{preset} {changes[f.name]}"
               for preset, changes in PRESETS.items() if f.name in changes]
    about = f.metadata["about"].replace("%", "%%")  # a % alone is argparse's
    if values:
        about += f" ({', '.join(values)})"
    if f.type is bool:
        return dict(action=argparse.BooleanOptionalAction, help=about)
    return dict(type=f.type, metavar=f.type.__name__.upper(), help=about)


FINE_TUNING = dict(max_steps=300, warmup_steps=20, learning_rate=3e-4,
                   min_learning_rate=3e-5, eval_interval=50,
                   sample_interval=100, checkpoint_interval=100)


def looks_like_python(corpus: Corpus) -> bool:
    """Whether a text has a `def` in 2,000 characters, as Python has."""
    text = corpus.tokenizer.decode(corpus.val[:2**20])
    return 2000 * text.count("def ") > len(text)


def new_state(options: RunOptions, preset: str, typed: dict
              ) -> tuple[Checkpoint, Corpus]:
    """What a new run begins with, and the text that it learns from."""
    init, defaults = None, {}
    if options.init:
        init = load_checkpoint(find_checkpoint(options.init))
        check_shape(init.model.config, typed)
        defaults = FINE_TUNING | asdict(init.model.config)
    shape, config = make_configs(preset, **defaults | typed)
    machine = pick_machine(config.device, config.dtype)
    on_cpu = machine.device.type == "cpu"
    if config.dtype == "auto" and on_cpu and bfloat16_is_fast():
        config = replace(config, dtype="bfloat16")
    corpus = read_corpus(Path(options.data or CORPUS), options.suffix,
                         init and init.tokenizer)
    for ids in (corpus.train, corpus.val):
        Dataset(ids, shape.context_length)  # raises if there is no window
    if "sample_prompt" not in typed and looks_like_python(corpus):
        config = replace(config, sample_prompt="def ")
    if init is None:
        torch.manual_seed(config.seed)
        shape = replace(shape, vocab_size=corpus.tokenizer.vocab_size)
    model = MiniGPT(shape) if init is None else init.model
    before = [EOS] if init is None else init.before
    state = Checkpoint(model, make_optimizer(model, config), config,
                       corpus.tokenizer, corpus.fingerprint(), before)
    state.ids(config.sample_prompt)  # raises if the model does not know it
    return state, corpus


def find_run(options: RunOptions, typed: dict) -> tuple[Path, str, bool]:
    """The folder of a run, its preset, and whether there is one to go on with.

    Raises MiniGPTError if what was typed would harm what is there.
    """
    require(not options.resume or not (options.overwrite or options.init),
            "--resume goes without --overwrite and --init: give one of them")
    preset = options.preset
    if preset == "auto":
        machine = pick_machine(typed.get("device", "auto"))
        preset = "full" if machine.device.type == "cuda" else "laptop"
    make_configs(preset)  # raises, before anything is read or written
    folder = Path(options.run or RUNS / preset)
    found = [name for name in (LAST, *RESULTS) if (folder / name).exists()]
    require(options.overwrite or not found or LAST in found, f"{folder} holds "
            f"results without {LAST}: put that back, or give --overwrite")
    require(options.overwrite or not found or options.resume, f"{folder} holds "
            "a run: give --resume or --overwrite, or another folder with --run")
    return folder, preset, options.resume and LAST in found


def command_line(*words: str) -> str:
    """What to type to run these words; a script is run by this Python."""
    if words[0].startswith("-") or words[0].endswith(".py"):
        words = (sys.executable, *words)
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)(words)


@contextmanager
def claim_run(options: RunOptions, typed: dict) -> Iterator[Path]:
    """Within `with`, the folder of a run, old or begun, is locked for us."""
    folder, preset, goes_on = find_run(options, typed)
    if not goes_on:
        print(f"preset {preset}, a new run in {folder}")
        begun = new_state(options, preset, typed)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", timeout=0):
        # look again, now that nobody else writes
        if not find_run(options, typed)[2]:
            require(not goes_on, f"the run in {folder} was just removed")
            start_run(folder, *begun)
        elif options.data or options.run and options.preset != "auto":
            print("--data and --preset are not read again: the text and the "
                  f"settings are kept in {folder}")
        yield folder


def carry_on(run: Run, deadline: float, launcher: Sequence[str] = ()) -> int:
    """Train, then print what to type next; return the exit status.

    `launcher` is what stands before the program's name in a command line.
    """
    print(f"{run.folder}: step {run.step} of {run.config.max_steps} on "
          f"{run.machine}\n{plan(run)}")
    number = train(run, deadline, cached)
    if run.step < run.config.max_steps:
        print(f"stopped after step {run.step}; go on with:")
        words = [*launcher, sys.argv[0], "train", "--run", str(run.folder),
                 "--resume"]
    else:
        finish(run)
        words = [sys.argv[0], "generate", "--checkpoint",
                 str(run.folder / BEST)]
    print(command_line(*words))
    return 128 + number if number else 0


def run_train(**typed) -> int:
    """Train a model, or go on with a run."""
    require("TORCHELASTIC_RUN_ID" not in os.environ, "this program is one "
            "process: torchrun starts many.py instead, with the same flags")
    options = pop_config(RunOptions, typed)
    deadline = time.monotonic() + 60 * options.max_minutes
    with claim_run(options, typed) as folder:
        return carry_on(open_run(folder, **typed), deadline)


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


def last_trained(run: Path) -> float:
    """When the run in a folder was saved; its best weights may be older."""
    path = run / (LAST if (run / LAST).exists() else BEST)
    return path.stat().st_mtime


def find_checkpoint(named: str = "") -> Path:
    """The file named, or the weights of the run named, else of the newest."""
    if named and not Path(named).is_dir():
        return Path(named)
    runs = {path.parent for name in (LAST, BEST)
            for path in RUNS.glob(f"*/{name}")}
    if not named and not runs:
        return SHIPPED
    run = Path(named) if named else max(runs, key=last_trained)
    return run / (BEST if (run / BEST).exists() else LAST)


def print_texts(steps: Iterator[Tensor], prompt: str, count: int, stop: str,
                stream: Callable) -> int:
    """Print the rows of steps as texts; return how many characters."""
    written = 0
    for i, own in enumerate(tee(steps, count)):
        if count > 1:
            print(f"--- sample {i + 1} of {count}")
        print(prompt, end="", flush=True)
        for piece in until(stream(step[i:i + 1] for step in own), stop):
            print(piece, end="", flush=True)
            written += len(piece)
        print(flush=True)
    return written


def run_generate(**typed) -> int:
    """Continue a prompt; the text goes to stdout, all else to stderr."""
    options = WriteOptions(**typed)
    machine = pick_machine(options.device, options.dtype)
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    prompt, path = unify(prompt), find_checkpoint(options.checkpoint)
    saved, say = load_checkpoint(path), partial(print, file=sys.stderr)
    ids = saved.ids(prompt)
    loss = saved.best_loss and f"{saved.best_loss:.3f} nats per character"
    say(f"{path}: step {saved.step}, validation loss {loss or 'not measured'}"
        f"; {machine}, --seed {options.seed}")
    T = saved.model.config.context_length
    unread = window_start(len(ids), T) - len(saved.before)
    if unread > 0:
        say(f"the first {unread} tokens of the prompt are not read: the "
            f"model can see {T}")
    rows = torch.tensor([ids] * options.num_samples, device=machine.device)
    read = cached if options.cache else uncached
    reader = read(for_writing(saved.model, machine))
    began = time.perf_counter()
    with StopSignal() as ended:
        steps = generate(reader, rows, options, saved.tokenizer.eos,
                         saved.tokenizer.never)
        steps = takewhile(lambda _: not ended.number, steps)
        written = print_texts(steps, prompt, len(rows), options.stop,
                              partial(saved.tokenizer.stream, read=ids))
    seconds = time.perf_counter() - began
    say(f"{written} characters, {written / seconds:,.0f} a second")
    if isinstance(saved.tokenizer, Tokenizer):
        say("the book's page Playground writes from this file, too")
    return 128 + ended.number if ended.number else 0


def write(saved: Checkpoint, prompt: str = "", **settings) -> str:
    """A prompt and its continuation; settings are those of GenerateConfig.

    `saved` is what load_checkpoint returns, or a run's state. Raises
    MiniGPTError for a character that the model does not know.
    """
    prompt, weights = unify(prompt), saved.model.norm.weight
    ids = saved.ids(prompt)
    rows = torch.tensor([ids], device=weights.device)
    steps = generate(cached(saved.model), rows, GenerateConfig(**settings),
                     saved.tokenizer.eos, saved.tokenizer.never)
    return prompt + "".join(saved.tokenizer.stream(steps, ids))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str):
        raise MiniGPTError(f"{message}: see 'train --help', 'generate --help'")


COMMANDS = {"train": (run_train, RunOptions, ModelConfig, TrainConfig),
            "generate": (run_generate, WriteOptions)}


def parse(argv: list[str] | None, commands: dict = COMMANDS
          ) -> tuple[Callable, dict]:
    """The function of a command line, and the settings that were typed."""
    about, *_ = (__doc__ or "MiniGPT").splitlines()  # python -OO has none
    parser = Parser(description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    choice = parser.add_subparsers(metavar="|".join(commands), dest="command",
                                   required=True)
    for name, (run, *configs) in commands.items():
        command = choice.add_parser(
            name, help=run.__doc__, description=run.__doc__, allow_abbrev=False,
            argument_default=argparse.SUPPRESS, usage=f"%(prog)s [--flag ...]")
        for f in (f for config in configs for f in fields(config)):
            if f.name != "vocab_size":  # comes from the text
                command.add_argument(f"--{f.name.replace('_', '-')}", **flag(f))
    typed = vars(parser.parse_args(argv))
    flags = [word.partition("=")[0] for word in argv or sys.argv]
    require(flags.count("--data") < 2, "--data is given twice: put both into "
            "one folder")
    return commands[typed.pop("command")][0], typed


OUT_OF_MEMORY = ("DefaultCPUAllocator", "MPS backend out of memory")


def explain(error: Exception) -> str:
    """What to tell of an error; one that is no user's fault is raised."""
    if isinstance(error, Timeout):
        return (f"another process trains in {Path(error.lock_file).parent}: "
                "wait for its end, or name another folder with --run")
    if isinstance(error, (OSError, UnicodeError, SafetensorError)):
        return f"{brief(error)}: check the file, its rights, and the disk"
    said = str(error) if isinstance(error, RuntimeError) else ""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
            words in said for words in OUT_OF_MEMORY):
        return (f"out of memory ({brief(error)}): halve --batch-size or "
                "--context-length, to write --num-samples or --max-new-tokens")
    if isinstance(error, torch.AcceleratorError) or "CUDA error:" in said:
        return (f"the GPU failed ({brief(error)}): use --device cpu, or a "
                "PyTorch that is made for it")
    raise error


def run_command(argv: list[str] | None = None, commands=COMMANDS) -> int:
    """Run a command line (default: sys.argv), whose errors are raised."""
    command, typed = parse(argv, commands)
    return command(**typed)


def main(argv: list[str] | None = None, run=run_command) -> int:
    """Run a command line, whose errors are told; return the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # any alphabet, on any system
            stream.reconfigure(encoding="utf-8", errors="replace",
                               line_buffering=True)
    try:
        return run(argv)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as any program that the system stops for that
    except KeyboardInterrupt:
        print("minigpt: stopped", file=sys.stderr)
        return 130
    except MiniGPTError as error:
        message = str(error)
    except Exception as error:
        message = explain(error)
    print("minigpt: error:", *message.split(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())


# tangled: bedbc802dce2c78124a0d242725d720f3be03a2cb0f7c98dea76cedbe1660cd4
