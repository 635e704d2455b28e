"""Lua that scripts of several rooms share."""

from __future__ import annotations

from importlib.resources import files

MAY = files(__package__).joinpath("may.lua").read_text()  # the function refusal(command, ...), for the top of a script
AHEAD = files(__package__).joinpath("ids.lua").read_text()  # the function ahead(a, b), for the top of a script
