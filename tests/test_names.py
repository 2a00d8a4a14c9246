"""Names in code: which are the program's, which PyTorch's, and what their cards say."""

import pytest
import torch

import tangle

names = pytest.importorskip(
    "names", reason="needs what builds the book: make .venv/book"
)

import cards  # noqa: E402
import hypertext  # noqa: E402


def test_the_table_of_pytorch_names_covers_the_book():
    table = names.torch_names()
    for name in table:
        value = torch
        for word in name.split(".")[1:]:
            value = getattr(value, word)
    assert [*table] == sorted(table)
    assert [
        (page.stem, *found)
        for page in tangle.pages()
        for found in names.unlinked(page, table)
    ] == []


@pytest.mark.parametrize(
    "code, found",
    [
        ("torch.nope(1)", [(7, "torch.nope")]),
        ("F.gelu(x)", []),
        ("x.torch.nope", []),
        ("torch.cuda.is_available()", []),
    ],
)
def test_a_name_of_pytorch_without_an_address_is_found(tmp_path, code, found):
    page = tmp_path / "01_a.md"
    page.write_text(
        "---\njupytext: {text_representation: {format_name: myst}}\n---\n"
        f"# A\n\n```{{code-cell}} python\n{code}\n```\n"
    )
    assert [*names.unlinked(page, names.torch_names())] == [
        (line, name) for line, name in found
    ]


def test_what_a_page_imports_is_the_program_s_though_a_solution_redefines_it(tmp_path):
    page = tmp_path / "01_a.md"
    page.write_text(
        "---\njupytext: {text_representation: {format_name: myst}}\n---\n"
        "# A\n\n```{code-cell} python\nfrom minigpt import Block\n"
        "naive = 1\n```\n\n```{code-cell} python\nclass Block: pass\n```\n"
    )
    assert names.own_names(page) == {"naive"}


@pytest.mark.parametrize(
    "source, own",
    [
        ("def f(write):\n    rows = write\n", {"write", "rows"}),
        ("def f():\n    global RANK\n    RANK = 1\n", set()),
        ("train = 1\n", set()),
    ],
)
def test_parameters_and_local_variables_are_not_the_program_s(source, own):
    assert names.locals_of(source) == own


def test_a_card_tells_the_signature_and_what_it_is_for():
    book = cards.cards(hypertext.Book().parts)
    signature, text = book["cross_entropy"]
    assert signature.startswith("def cross_entropy(logits: Tensor, targets: Tensor")
    assert text and "\n\n" not in text
    assert book["EOS"][0].count("\n") == 0
