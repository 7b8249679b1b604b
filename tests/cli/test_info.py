"""The command info, and help."""

import jax
from support.cli import run


def test_info_and_help(tmp_path, here):
    process = run("info", cwd=tmp_path)
    assert (
        process.returncode == 0
        and "jax " in process.stdout
        and "extra cli: installed" in process.stdout
    )
    status, told = here("deep-limit", "--help")
    assert status == 0 and "1810.11741" in told and "--depths" in told


def test_a_platform_that_is_not_there_is_a_sentence(here, monkeypatch):
    def missing():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", missing)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    status, told = here("info")
    assert status == 2 and "no device of JAX_PLATFORMS='cuda'; install JAX's part" in told
