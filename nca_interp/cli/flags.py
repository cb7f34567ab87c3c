"""What the parser left of a command line: folders, measurements asked for by name, and options that measurements take as flags."""

from __future__ import annotations

from typing import NamedTuple

from nca_interp.errors import UserError


class Given(NamedTuple):
    """Arguments that belong to no option of the command itself."""

    places: list[str]
    """Folders, at most one."""
    asked: list[str]
    """Measurements."""
    options: dict[str, dict[str, str | bool]]
    """By measurement, what was given to its flags."""


def only_these(names: list[str]) -> list[str]:
    """The measurements that `--only NAME` names, words with commas between them; of a bare `--only` none. UserError for others."""
    from nca_interp.config import suggest
    from nca_interp.measurement import measurements

    known = [one.name for one in measurements().values() if one.measure is not None]
    words = [word.strip() for name in names for word in name.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise UserError(f"--only {word}: no such measurement{suggest(word, known)}")
    return words


def split(arguments: list[str]) -> Given:
    """`--NAME` asks for a measurement, `--FLAG VALUE` or `--FLAG=VALUE` for the one that takes the flag. UserError for others."""
    from nca_interp.config import suggest
    from nca_interp.measurement import measurements

    known = {one.name: one for one in measurements().values() if one.measure is not None}
    flags = {flag: (one.name, option) for one in known.values() for flag, option in one.flags.items()}
    switches = {flag: (one.name, option) for one in known.values() for flag, option in one.switches.items()}
    given, rest = Given([], [], {}), list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            given.places.append(argument)
        elif argument.startswith("--") and not equals and name in switches:
            owner, option = switches[name]
            given.options.setdefault(owner, {})[option] = True
        elif argument.startswith("--") and name in flags:
            if not equals and not rest:
                raise UserError(f"--{name}: a value is missing")
            owner, option = flags[name]
            if option in given.options.setdefault(owner, {}):
                raise UserError(f"--{name}: given twice")
            given.options[owner][option] = value if equals else rest.pop(0)
        elif argument.startswith("--") and not equals and name in known:
            given.asked.append(name)
        else:
            close = suggest(argument.lstrip("-").partition("=")[0], [*known, *flags, *switches])
            raise UserError(f"no such option or measurement: {argument}{close}")
    if len(given.places) > 1:
        raise UserError(f"unexpected argument {given.places[1]!r}; several checkpoints: --checkpoint A --checkpoint B")
    told = [name for name, options in given.options.items() if set(options) - set(known[name].switches.values())]
    return given._replace(asked=list(dict.fromkeys([*given.asked, *told])))
