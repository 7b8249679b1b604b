"""Bad options of all commands."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deep-limit", "--schemes", "leapfrog"), "invalid choice 'leapfrog'"),
        (("deep-limit", "--depth", "4"), "--depth"),
        (("deep-limit", "--depths", "1"), "from 2 to 4096, got 1"),
        (("deep-limit", "--seed", "-1"), "--seed must be at least 0, got -1"),
        (("deep-limit", "--seed", "1" + "0" * 30), "--seed must be at most 4294967295"),
        (("deep-limit", "--out", "a\0b"), "--out must be a path without the character NUL"),
        (("train", "--seed", "1" + "0" * 30), "--seed must be at most 4294967295"),
        (("train", "--width", "0"), "--width must be a positive multiple of 4, got 0"),
        (("train", "--width", "-4"), "--width must be a positive multiple of 4, got -4"),
        (("train", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("train", "--levels", "2", "3"), "each a multiple of the one before, such as 4 8 16"),
        (("train", "--levels", "4", "4"), "--levels 4 4 must be numbers of steps"),
        (("train", "--levels", "0", "4"), "--levels 0 4 must be numbers of steps"),
        (("train", "--levels", "2", "4", "--steps", "8"), "take the place of --steps 8"),
        (("train", "--levels", "2", "4", "--patience", "3"), "leave --patience out"),
        (("train", "--levels", "2", "4", "--epochs", "1"), "at least one for each level"),
        (("train", "--learning-rate", "inf"), "--learning-rate must be positive and finite"),
        (("train", "--out", "a\0b"), "--out must be a path without the character NUL"),
        (("train", "--data", "mnist", "--data-dir", "a\0b"), "NUL"),
        (("evaluate", "--folder", "a\0b"), "NUL"),
        (("certify", "--folder", "a\0b"), "NUL"),
        (("data", "show", "mnist", "--data-dir", "a\0b"), "NUL"),
        (("train", "--coordinator", "h:x", "--processes", "1", "--process", "0"), "HOST:PORT"),
        (
            (
                "train",
                "--coordinator",
                "h:1",
                "--processes",
                "2",
                "--process",
                "0",
                "--timeout",
                "0",
            ),
            "--timeout must be at least 1 second, got 0",
        ),
        (("deep-limit", "--data", "nowhere.npz"), "there is no file nowhere.npz"),
        (("deep-limit", "--out", "blocked/results"), "cannot be written"),
        (("shallow-limit",), "deep-limit"),
        (("train", "--scheme", "leapfrog"), "invalid choice 'leapfrog'"),
        (("train", "--data", "kmnist", "--data-dir", "."), "neuralflow data prepare kmnist"),
        (("train", "--batch", "5000"), "more than the 1437 samples"),
        (("train", "--width", "6"), "multiple of 4"),
        (("train", "--batch", "0"), "batch must be at least 1"),
        (("train", "--processes", "2"), "need --coordinator HOST:PORT"),
        (("train", "--coordinator", "127.0.0.1:1"), "--processes and --process; or give auto"),
        (
            ("train", "--coordinator", "a:1", "--processes", "2", "--process", "5"),
            "between 0 and 1, got 5",
        ),
        (("train", "--coordinator", "auto"), "could not be joined"),
        (("train", "--data", "moons", "--test-split", "train"), "leave the split 'train' out"),
        (("train", "--data", "moons", "--precision", "bfloat16"), "moons has points"),
        (("train", "--test-split", "gibberish"), "split must be one of 'train', 'test'"),
        (("train", "--learning-rate", "0"), "must be positive"),
        (("train", "--data", "moons", "--augment"), "moons has none"),
        (
            ("train", "--tolerance", "1e-4"),
            "--tolerance is that of adaptive steps; euler takes --steps 4",
        ),
        (("train", "--depth-penalty", "-1"), "must not be negative, got -1"),
        (("evaluate", "--folder", "nowhere"), "--out folder of neuralflow train"),
        (("evaluate", "--tradeoff", "--folder", "nowhere"), "--out folder of neuralflow train"),
        (("evaluate", "--tradeoff", "--scheme", "heun"), "leave --scheme heun out"),
        (("evaluate", "--tradeoff", "--out", "a\0b"), "--out must be a path"),
        (("evaluate", "--tradeoff", "--out", "blocked/table"), "cannot be written"),
        (("evaluate", "--out", "table"), "give both or none"),
        (("certify", "--folder", "nowhere"), "--out folder of neuralflow train"),
        (("certify", "--samples", "1"), "must be at least 2, got 1"),
        (("data", "show", "kmnist", "--data-dir", "."), "is not prepared in ."),
    ],
)
def test_bad_input_ends_in_a_sentence_and_status_two(arguments, said, tmp_path, here):
    (tmp_path / "blocked").write_text("a file, not a folder")
    status, told = here(*arguments, cwd=tmp_path)
    assert status == 2
    assert said in " ".join(told.split())
