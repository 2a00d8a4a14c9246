"""The whole model before it has learned anything."""

import math

import pytest
import torch
import torch.nn.functional as F

import minigpt
from minigpt import MiniGPT, ModelConfig, count_parameters, make_configs
from tangle import oracle

SHAPE = ModelConfig(
    vocab_size=20, context_length=8, d_model=24, n_layers=3, n_heads=3, dropout=0.0
)


def make_model(config: ModelConfig = SHAPE) -> MiniGPT:
    torch.manual_seed(0)
    return MiniGPT(config)


def random_ids(V: int, B: int, T: int) -> torch.Tensor:
    return torch.randint(3, V, (B, T), generator=torch.manual_seed(1))


@pytest.mark.parametrize("preset", minigpt.PRESETS)
def test_loss_at_the_start_is_that_of_betting_on_nothing(preset):
    config, _ = make_configs(preset, vocab_size=99, dropout=0.0)
    T = config.context_length
    ids = random_ids(99, 1024 // T, T + 1)
    with torch.no_grad():
        logits = make_model(config)(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(99), rel=0.02)


@pytest.mark.parametrize(
    "V, T, C, L",
    [
        (99, 512, 512, 8),
        (99, 64, 48, 2),
        (7, 5, 4, 1),
        (50_257, 1024, 768, 12),
    ],
)
def test_number_of_parameters_is_that_of_the_formula(V, T, C, L):
    count_by_formula = oracle("minigpt", "count_by_formula", vars(minigpt))
    with torch.device("meta"):  # shapes alone
        model = MiniGPT(ModelConfig(V, T, C, L, n_heads=4))
    assert count_parameters(model) == count_by_formula(V, T, C, L)


@pytest.mark.parametrize(
    "preset, least, most",
    [
        ("full", 25.55e6, 25.65e6),
        ("tiny", 1, 100_000),
    ],
)
def test_preset_is_as_large_as_the_design_says(preset, least, most):
    with torch.device("meta"):
        model = MiniGPT(make_configs(preset)[0])
    assert least <= count_parameters(model) <= most


@pytest.mark.parametrize("position", [0, 3, 7])
def test_changed_character_changes_no_earlier_guess_and_all_later(position):
    model, ids = make_model(), random_ids(20, 2, 8)
    changed = ids.clone()
    changed[:, position] = 0
    difference = (model(ids) - model(changed)).abs().amax((0, 2))
    assert (difference[:position] < 1e-6).all()
    assert (difference[position:] > 1e-4).all()


def test_model_is_embeddings_and_blocks_and_a_norm_and_a_head():
    norm_by_hand = oracle("block", "norm_by_hand", vars(minigpt))
    model, ids = make_model(), random_ids(20, 2, 8)
    x = model.embeddings(ids)
    assert len(model.blocks) == SHAPE.n_layers
    for block in model.blocks:
        x = block(x)
    logits = norm_by_hand(x) @ model.head.weight.T
    torch.testing.assert_close(model(ids), logits)
    assert logits.shape == (2, 8, 20)


def test_model_knows_its_config():
    assert make_model().config == SHAPE


@pytest.mark.parametrize("shape", [(8,), (1, 2, 4)])
def test_ids_that_are_no_batch_of_texts_are_refused(shape):
    ids = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(AssertionError, match=r"expected \(B, T\)"):
        make_model()(ids)


class Past:
    """The least that a cache can be."""

    def __init__(self):
        self.length, self.seen = 0, {}

    def append(self, layer: int, *keys_and_values: torch.Tensor):
        self.seen.setdefault(layer, []).append(keys_and_values)
        return (
            torch.cat(so_far, dim=2) for so_far in zip(*self.seen[layer], strict=True)
        )


def test_text_can_be_read_in_pieces_with_what_each_block_remembers():
    model, ids, past = make_model(), random_ids(20, 2, 8), Past()
    pieces = [model(piece, past) for piece in ids.split([3, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids))
    assert past.length == 8
    assert sorted(past.seen) == [0, 1, 2]


# Initialisation: at d_ff != 4 C, so that each kind of matrix has its own size

WIDE = ModelConfig(
    vocab_size=99, context_length=128, d_model=128, n_layers=3, n_heads=4, d_ff=300
)
DEVIATIONS = {
    "token_embedding.weight": 0.5,
    "attention.qkv.weight": 128**-0.5,
    "attention.proj.weight": (128 * 2 * 3) ** -0.5,
    "mlp.expand.weight": 128**-0.5,
    "mlp.proj.weight": (300 * 2 * 3) ** -0.5,
    "head.weight": 0.3 * 128**-0.5,
}


@pytest.mark.parametrize("name, std", DEVIATIONS.items())
def test_matrix_starts_with_the_deviation_of_its_kind(name, std):
    named = make_model(WIDE).named_parameters()
    matrices = [p for full_name, p in named if full_name.endswith(name)]
    assert matrices
    for p in matrices:  # bounds of five standard errors
        assert abs(p.mean()) < 5 * std / p.numel() ** 0.5
        assert abs(p.std() / std - 1) < 5 / (2 * p.numel()) ** 0.5


def test_biases_start_at_zero_and_scales_of_norms_at_one():
    vectors = {
        n: p
        for n, p in make_model(WIDE).named_parameters()
        if not n.endswith((*DEVIATIONS, "position_embedding.weight"))
    }
    assert all(p.dim() == 1 for p in vectors.values())
    for name, p in vectors.items():
        assert (p == (0 if name.endswith("bias") else 1)).all(), name


def test_positions_stay_as_they_were_made():
    rows = make_model(WIDE).embeddings.position_embedding.weight
    assert torch.equal(rows, minigpt.waves(*rows.shape))
