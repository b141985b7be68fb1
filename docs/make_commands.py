"""Write docs/commands.md from the descriptions that the command line itself is built from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from desta_lab.cli import COMMANDS

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Every command is `python -m desta_lab NAME …`. Without a preset it takes the one that suits the
machine (`ablate`, `emerge`, `course` and `grade` take `nano`) and says what it will cost. What is
on disk is not done again; a command that was stopped goes on where it was.

*Written by `python docs/make_commands.py` from the command line's own descriptions.*
"""


def page() -> str:
    """Return the page: a section a command, a row an argument."""
    lines = [HEAD]
    for name, command in COMMANDS.items():
        lines += [f"## {name}", "", command.help, ""]
        if command.arguments:
            lines += ["| argument | meaning |", "|---|---|"]
        for names, how in command.arguments:
            choices = f" ({', '.join(how['choices'])})" if "choices" in how else ""
            default = f"; {how['default']} by default" if how.get("default") else ""
            lines.append(f"| `{names[0]}` | {how['help']}{choices}{default} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
