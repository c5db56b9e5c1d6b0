"""The scripts use the plugin, which never uses them."""

import ast

from tests.volumes import ROOT


def test_the_plugin_imports_no_script():
    scripts = {"scripts"} | {path.stem for path in (ROOT / "scripts").iterdir()}
    for path in (ROOT / "monai_blurvae").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not scripts & {name.partition(".")[0] for name in names}, path
