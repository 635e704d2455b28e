"""``streammachine dlq``: the arguments of its commands; what they do stands in ``letters.py``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from streammachine.cli.arguments import APPS, Json

dlq = App(name="dlq", help="Dead letters: messages that agents gave up.", group=APPS)


@dlq.command(name="list")
def dlq_list(
    stream: str | None = None,
    *,
    count: Annotated[int, Parameter(validator=Number(gte=1))] = 20,
    group: str | None = None,
    json: Json = False,
) -> int:
    """List the dead letters of a stream, the newest first; without a stream, how many each has.

    Parameters
    ----------
    stream
        The stream whose messages were given up.
    count
        How many to list.
    group
        Only those of this consumer group.
    """
    from streammachine.cli.letters import list_letters

    return list_letters(stream, count, group, json)


@dlq.command(name="show")
def dlq_show(stream: str, id: str, *, json: Json = False) -> int:
    """Show one dead letter with everything known of its end.

    Parameters
    ----------
    stream
        The stream whose message was given up.
    id
        The letter's id, as list shows it.
    """
    from streammachine.cli.letters import show_letter

    return show_letter(stream, id, json)


@dlq.command(name="redrive")
def dlq_redrive(
    stream: str,
    ids: list[str] | None = None,
    *,
    all: bool = False,
    group: str | None = None,
    json: Json = False,
) -> int:
    """Give dead letters back to the group that failed on them, and to no other.

    Parameters
    ----------
    stream
        The stream whose messages were given up.
    ids
        The letters' ids, as list shows them.
    all
        All letters of the stream.
    group
        With --all: only those of this consumer group.
    """
    from streammachine.cli.letters import redrive_letters

    return redrive_letters(stream, ids or [], all, group, json)


@dlq.command(name="purge")
def dlq_purge(stream: str, *, yes: bool = False) -> int:
    """Delete all dead letters of a stream for good; asks first.

    Parameters
    ----------
    stream
        The stream whose messages were given up.
    yes
        Do not ask.
    """
    from streammachine.cli.letters import purge_letters

    return purge_letters(stream, yes)
