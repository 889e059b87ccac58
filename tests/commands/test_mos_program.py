"""The program ``mos``: its help fits on a screen, and each command answers to --help with an example of its own."""

import importlib
import re

import pytest

from fastreid_mos.commands import COMMANDS, main


def test_the_help_lists_every_command_on_one_screen(capsys):
    assert main([]) == main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) / 2 <= 24 and max(map(len, lines)) <= 100
    assert [name for name in COMMANDS if not any(line.split()[:1] == [name] for line in lines)] == []


def test_an_unknown_command_is_one_line_and_the_help(capsys):
    assert main(["serch"]) == 2
    assert "'serch'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name, capsys):
    command = importlib.import_module(f"fastreid_mos.commands.{name.replace('-', '_')}").main
    with pytest.raises(SystemExit) as ended:
        command(["--help"])
    text = capsys.readouterr().out
    usage, examples = text.partition("\n\n")[0], re.findall(rf"^(?:example:)? +mos {name}\b", text, re.MULTILINE)
    assert ended.value.code == 0 and usage.startswith(f"usage: mos {name} ") and examples
