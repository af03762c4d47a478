"""How tables look in a terminal."""

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table


def terminal_table(
    headers: Iterable[str], *, title: str, caption: str, first: str = "optimizer"
) -> Table:
    """An empty table, a name (of an optimizer) and numbers a line, for 80 columns."""
    table = Table(
        title=escape(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column(first, no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table
