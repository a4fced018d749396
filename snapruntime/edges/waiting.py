"""What a terminal shows while something takes long. Apart from `output`: few runs need it, and it is slow to import."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text


def show(text: str, console: Console) -> Progress:
    """Show what is being done, and its seconds, until it is stopped."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), _Seconds(), console=console, transient=True
    )
    bar.add_task(text, total=None)
    bar.start()
    return bar


class _Seconds(ProgressColumn):
    """The seconds that a task has taken: "0.9 s"."""

    max_refresh = 0.1

    def render(self, task: Task) -> Text:
        return Text(f"… {task.elapsed or 0.0:.1f} s", style="dim")
