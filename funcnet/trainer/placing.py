"""Objectives and steps of a placement: what of them is computed on which device."""

from collections.abc import Mapping
from functools import partial, reduce
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from funcnet import tree
from funcnet.between import said
from funcnet.metrics import Metric
from funcnet.placement import Placement
from funcnet.training.step import Accumulators, Step, nonzero
from funcnet.types import ModelState, Objective, Params, TrainState


def divided(objective: Objective, metrics: Mapping[str, Metric], placement: Placement) -> Objective:
    """`objective` over batches whose examples are divided among devices."""
    if placement.mapped:
        return mapped(objective, metrics, placement)

    def over_parts(
        params: Params,
        model_state: ModelState,
        batch: Any,
        *,
        key: jax.Array | None,
        training: bool,
    ) -> Any:
        with said(placement.divide):
            batch = placement.divide(batch)
            return objective(params, model_state, batch, key=key, training=training)

    return over_parts


def placed(step: Step, placement: Placement) -> Step:
    """`step`, whose state lives where it did before, and whose sums are on every device."""

    def stay(state: TrainState, batch: Any) -> tuple[TrainState, Accumulators]:
        state, found = step(state, batch)
        return placement.keep(state), placement.copied(found)

    return stay


def mapped(objective: Objective, metrics: Mapping[str, Metric], placement: Placement) -> Objective:
    """`objective` of each device's examples alone, and then the sums over all devices.

    Differentiated from outside: the derivative of what is mapped is summed over devices by JAX,
    where that of a mean taken within would be too large by their number.
    """
    (axis,) = placement.batch

    def over_devices(
        params: Params,
        model_state: ModelState,
        batch: Any,
        *,
        key: jax.Array | None,
        training: bool,
    ) -> Any:
        def on_one(params: Params, model_state: ModelState, batch: Any, key: Any) -> Any:
            noise = None if key is None else jax.random.fold_in(key, jax.lax.axis_index(axis))
            (total, weight), (model_state, found) = objective(
                params, model_state, batch, key=noise, training=training
            )
            whole = jax.lax.psum(jnp.asarray(weight), axis)
            found = {
                name: merged(metrics[name], value, axis)
                if name in metrics
                else jax.lax.psum(value * weight, axis) / nonzero(whole)
                for name, value in found.items()
            }
            model_state = tree.alike(model_state, jax.tree.map(partial(mean, axis), model_state))
            return (jax.lax.psum(total, axis), whole), (model_state, found)

        everywhere = PartitionSpec()
        return jax.shard_map(
            on_one,
            mesh=placement.mesh,
            in_specs=(everywhere, everywhere, PartitionSpec(axis), everywhere),
            out_specs=everywhere,
            check_vma=False,  # guests' loops begin with constants, which it would refuse
        )(params, model_state, batch, key)

    return over_devices


def merged(metric: Metric, value: Any, axis: str) -> Any:
    """A metric's accumulator of the examples of all devices."""
    stacked = jax.lax.all_gather(value, axis)
    parts = [jax.tree.map(itemgetter(i), stacked) for i in range(jax.lax.axis_size(axis))]
    return reduce(metric.merge, parts)


def mean(axis: str, leaf: Any) -> Any:
    """The mean over devices of numbers; what else a model's state holds is the same on each."""
    return jax.lax.pmean(leaf, axis) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
