"""The reference: pdoc builds it offline and without a warning, and the names in it are links.

`__all__` of a package decides what is public, `__docformat__` how docstrings are read, and
`@public` in a docstring shows a method with underscores, such as `__call__`.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag

import neuralflow as nf

ROOT = Path(nf.__file__).parent
# Elements without an end.
VOID = {"br", "hr", "img", "input", "link", "meta", "path", "wbr"}
# A name that begins with the package; one that begins with its short form; one that stands alone.
WHOLE = re.compile(r"neuralflow\.[\w.]+")
SHORT = re.compile(r"\bnf(\.|neuralflow)")  # pdoc reads what follows `nf` as relative in places
ALONE = re.compile(r"([A-Za-z_][\w.]*)(\(\))?")


class Page(HTMLParser):
    """What a page holds: anchors, links, what it loads, and the names that docstrings mark as code.

    A name comes with whether it is a link, in whole or in part. Blocks of code hold no names.
    """

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads, self.names = set(), [], [], []
        self.open, self.prose, self.name, self.linked = [], [], None, False
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes["id"]} if "id" in attributes else set()
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        self.loads += [attributes["src"]] if "src" in attributes else []
        self.loads += [attributes["href"]] if tag == "link" else []
        if tag in VOID:
            return
        self.open.append((tag, (attributes.get("class") or "").split()))
        if tag == "code" and self.in_docstring():
            self.name, self.linked = "", False
        self.linked = self.linked or tag == "a"

    def handle_endtag(self, tag):
        if tag == "code" and self.name is not None:
            self.names.append((self.name, self.linked))
            self.name = None
        while tag not in VOID and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.name is not None:
            self.name += data
        elif self.in_docstring():
            self.prose.append(data)

    def in_docstring(self):
        tags = [tag for tag, _ in self.open]
        return any("docstring" in classes for _, classes in self.open) and "pre" not in tags


def public(name="neuralflow"):
    """The public modules from one on: it, and those submodules that its `__all__` names."""
    module = importlib.import_module(name)
    modules = {name: module}
    inside = [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    for child in set(inside) & set(getattr(module, "__all__", inside)) - {"__main__"}:
        modules |= public(f"{name}.{child}")
    return modules


def build(folder):
    """The pages by the names of their modules."""
    command = (sys.executable, "-W", "error", "-m", "pdoc", "neuralflow", "-o", folder)
    process = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-4000:]
    assert process.stdout + process.stderr == ""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): Page(path)
        for path in folder.rglob("*.html")
        if path.name != "index.html"
    }


def test_the_reference(tmp_path):
    pages = build(tmp_path)
    check_every_public_module_has_a_page(pages)
    check_every_public_name_has_an_entry(pages)
    check_nothing_private_has_one(pages)
    check_nothing_is_loaded_from_elsewhere(pages, tmp_path)
    check_links_have_targets(pages, tmp_path)
    check_names_are_links(pages)
    check_mathematics_needs_no_rendering(pages)


def check_every_public_module_has_a_page(pages):
    modules = public()
    assert set(pages) == set(modules)
    rooms = "fields schemes schemes.analysis depth solve branches transport regularisers statistics"
    rooms += " models data training sweeps inference plots checks cli"
    labs = "deep_limit diffeo operators paths plain_net stochastic"
    assert {f"neuralflow.{room}" for room in rooms.split()} <= set(pages)
    assert {f"neuralflow.labs.{lab}" for lab in labs.split()} <= set(pages)
    for name, module in modules.items():
        assert getattr(module, "__docformat__", None) == "google", name


def check_every_public_name_has_an_entry(pages):
    for page, module in public().items():
        for name in getattr(module, "__all__", ()):
            assert name in pages[page].anchors or f"{page}.{name}" in pages, f"{page}.{name}"
            thing = getattr(module, name)
            call = vars(thing).get("__call__") if inspect.isclass(thing) else None
            if inspect.getmodule(call) and call.__doc__:
                assert f"{name}.__call__" in pages[page].anchors, f"{page}.{name} lacks @public"


def check_nothing_private_has_one(pages):
    for page, held in pages.items():
        for anchor in held.anchors & entries(pages):
            parts = anchor.split(".")
            assert not any(re.match("_[^_]", part) for part in parts), f"{page}#{anchor}"


def check_nothing_is_loaded_from_elsewhere(pages, folder):
    for page, held in pages.items():
        assert not [source for source in held.loads if not source.startswith("data:")], page
    styled = re.compile(r"(?:url\(|@import)\W{0,2}(?:https?:)?//")
    for path in folder.rglob("*.html"):
        style = "".join(re.findall("<style>(.*?)</style>", path.read_text(), re.S))
        assert not styled.search(style), path


def check_links_have_targets(pages, folder):
    """Follows every link that stays in the reference."""
    paths = {folder / f"{name.replace('.', '/')}.html": page for name, page in pages.items()}
    for path, page in paths.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            if target.startswith("https://"):
                continue
            aim = paths.get((path.parent / target).resolve()) if target else page
            assert aim is not None, f"{path.name} links to {link}"
            assert not anchor or anchor in aim.anchors, f"{path.name} links to {link}"


def check_names_are_links(pages):
    """Holds every name of ours to be a link, where a docstring names it.

    A word that is a parameter or an attribute somewhere may mean that, and is left alone.
    """
    ours = entries(pages) - words()
    missing = set()
    for page, held in pages.items():
        for name, linked in held.names:
            alone = ALONE.fullmatch(name)
            is_ours = WHOLE.match(name) or (alone and alone[1] in ours)
            if SHORT.search(name) or (is_ours and not linked):
                missing.add(f"{page}: {name}")
    assert not missing, "write them whole, from neuralflow on:\n" + "\n".join(sorted(missing))


def check_mathematics_needs_no_rendering(pages):
    """Holds formulas to be plain text, which needs no program from elsewhere to be read."""
    for page, held in pages.items():
        tex = re.search(r"\\\(|\$\$|\\[a-z]+\{", "".join(held.prose))
        assert tex is None, f"{page}: {tex}"


def entries(pages):
    """The names of all entries: a class, a function, or a member with its class."""
    return {
        anchor
        for held in pages.values()
        for anchor in held.anchors
        if re.fullmatch(r"[A-Za-z_][\w.]*", anchor)
    }


def words():
    """The names of all parameters and attributes of the package."""
    names = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names
