"""The command info, and help."""

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
