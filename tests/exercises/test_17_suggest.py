"""Chapter 17, "Did you mean?": a misspelt flag is answered with the right one."""

import pytest

from minigpt import main


@pytest.mark.parametrize(
    "words, flag",
    [
        ("train --droput 0.1", "--dropout"),
        ("train --max-step=3", "--max-steps"),
        ("train --overwite", "--overwrite"),
        ("generate --top-q 0.5", "--top-p"),
        ("train --sufix .txt", "--suffix"),
        ("generate --promt x", "--prompt"),
    ],
)
def test_a_flag_that_is_close_is_named(words, flag, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert words.split()[1] in err
    assert err.endswith(f"did you mean {flag}?\n")


@pytest.mark.parametrize("words", ["train --xyzzy", "generate --no-cash-at-all-x"])
def test_a_flag_like_no_other_is_refused_as_before(words, capsys):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert "did you mean" not in err and words.split()[1] in err
