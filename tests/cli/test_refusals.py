"""Bad options of all commands."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deep-limit", "--schemes", "leapfrog"), "invalid choice 'leapfrog'"),
        (("deep-limit", "--depth", "4"), "--depth"),
        (("deep-limit", "--depths", "1"), "from 2 to 4096, got 1"),
        (("deep-limit", "--seed", "-1"), "must not be negative"),
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
        (("train", "--test-split", "gibberish"), "the digits have the splits"),
        (("train", "--learning-rate", "0"), "must be positive"),
        (("train", "--data", "moons", "--augment"), "moons has none"),
        (
            ("train", "--tolerance", "1e-4"),
            "--tolerance is that of adaptive steps; euler takes --steps 4",
        ),
        (("train", "--depth-penalty", "-1"), "must not be negative, got -1"),
        (("evaluate", "--folder", "nowhere"), "--out folder of neuralflow train"),
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
