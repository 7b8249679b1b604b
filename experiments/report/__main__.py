"""One page on all experiments: question, command, time, table, picture and versions of each.

    python -m experiments.report

Reads the results that are kept beside the programs, and computes nothing. Writes report.html, which
holds its pictures and needs no network, README.md, and report.json, which counts what they show.
With --keep, only the README.md of the experiments is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.program import ROOT, Parser
from experiments.report.kept import experiments
from experiments.report.pages import html, markdown
from neuralflow import files


def main(arguments: Sequence[str] | None = None) -> None:
    run = Parser(__file__, __doc__, kept=str(ROOT)).begin(arguments)
    all_of_them = experiments()
    files.write(run.folder / "README.md", markdown(all_of_them, run.folder.resolve()))
    if run.options.keep:
        return
    files.write(run.folder / "report.html", html(all_of_them))
    results = [result for each in all_of_them for result in each.results]
    counts = {
        "experiments": len(all_of_them),
        "without a kept result": sum(not each.results for each in all_of_them),
        "results": len(results),
        "pictures": sum(path.suffix == ".png" for _, beside in results for path in beside),
    }
    run.write("report", {"shown": counts})
    print(f"the page is {run.folder / 'report.html'}")


if __name__ == "__main__":
    main()
