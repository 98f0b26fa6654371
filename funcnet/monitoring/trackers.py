"""Weights & Biases and trackio: a fit as a run of a tracker."""

from collections.abc import Mapping
from typing import Any

from funcnet.monitoring.points import check_every, needed, plain_values, scalars, step_losses
from funcnet.trainer.callbacks import Callback, Event, leads


def wandb(
    project: str,
    *,
    every: int | None = 50,
    config: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Callback:
    """Writes a fit as a run of Weights & Biases; for `callbacks=`.

    The run begins and ends with the fit. It has each epoch's values at the step that ends it, under
    their names in the history, with `epoch` and what callbacks before it in the list have added; a
    vector as a value for each of its entries; and `step_loss`, the loss of single steps. Of several
    processes one writes.

    Nothing is sent but by wandb itself, as it is set up: with `mode="offline"` nothing is.

    Args:
        project: the name of the project.
        every: steps between two of `step_loss`; `None` for none of them.
        config: by name, the numbers, strings and truth values that this run was made with.
        arguments: any others of `wandb.init`, such as `name`, `mode` and `dir`. Give `id` and
            `resume="allow"` to a fit with a checkpoint, so that it goes on in the same run: wandb
            leaves out the steps that it has already.

    Raises:
        ImportError: wandb is not installed.
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> from funcnet.monitoring import wandb
        >>> callback = wandb("digits", name="first", mode="offline", config={"rate": 1e-3})
    """
    return tracked("wandb", project, every, config, arguments)


def trackio(
    project: str,
    *,
    every: int | None = 50,
    config: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Callback:
    """Writes a fit as a run of trackio, in a database on this machine; for `callbacks=`.

    What it writes is what `fn.wandb` does. Look at it by `trackio show`. Nothing is sent, unless
    `space_id` or `server_url`, or trackio's environment variables, say where to.

    Args:
        project: the name of the project.
        every: steps between two of `step_loss`; `None` for none of them.
        config: by name, the numbers, strings and truth values that this run was made with.
        arguments: any others of `trackio.init`, such as `name`. With a name, `resume="allow"` goes
            on in the same run, where steps that are taken again stand twice.

    Raises:
        ImportError: trackio is not installed.
        TypeError, ValueError: an argument is wrong.

    Example:
        >>> from funcnet.monitoring import trackio
        >>> callback = trackio("digits", name="first", config={"rate": 1e-3})
    """
    return tracked("trackio", project, every, config, arguments)


def tracked(
    function: str,
    project: str,
    every: int | None,
    config: Mapping[str, Any] | None,
    arguments: Mapping[str, Any],
) -> Callback:
    """A callback for a package that has `init`, and runs with `log` and `finish`."""
    if not isinstance(project, str) or not project:
        raise TypeError(
            f"`{function}`: project must be a name, got {project!r}. Say `fn.{function}('digits')`."
        )
    check_every(function, every)
    settings = plain_values(function, "config", config)
    package = needed(function, function, function)

    def update(run: Any, event: Event) -> Any:
        """Memory: the tracker's run, in the process that writes."""
        if event.kind == "start" and leads(event):
            return package.init(project=project, config=settings, **arguments)
        if run is None:
            return None
        for step, loss in step_losses(event, every).items():
            run.log({"step_loss": loss}, step=step)
        if event.kind == "epoch":
            run.log({"epoch": event.epoch, **scalars(event.metrics)}, step=event.step)
        if event.kind == "end":
            run.finish()
            return None
        return run

    return Callback(lambda: None, update, writes=True)
