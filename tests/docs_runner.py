"""Runs the code of a Markdown page in order: ``python`` blocks in one namespace, ``sh`` blocks as commands.

    python tests/docs_runner.py docs/tutorial.md

Works in the current folder. A block under the comment ``<!-- not run -->`` is left out.
"""

import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(
    r"(?P<skip><!-- not run -->\n)?^```(?P<kind>python|sh)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(text):
    """Yield (kind, code, line) of the blocks to run; ``line`` is that of the first line of code."""
    for match in BLOCK.finditer(text):
        if match["skip"] is None:
            yield match["kind"], match["code"], text.count("\n", 0, match.start("code")) + 1


def run(path):
    namespace = {"__name__": "__main__"}
    for kind, code, line in blocks(path.read_text(encoding="utf-8")):
        if kind == "python":
            # Empty lines in front make line numbers in tracebacks, and origins of nodes, those of the page.
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), namespace)
        else:
            sys.stdout.flush()
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=False)
            if done.returncode:
                raise SystemExit(f"{path}:{line}: exit status {done.returncode} of\n{code}")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
