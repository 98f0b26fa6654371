"""Laws of placements, on eight virtual devices: whatever is divided, one device has the result."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import funcnet as fn
from tests.training.test_laws import CROSS_ENTROPY, data


def mlp(rate=0.2, axis_name=None):
    return fn.sequential(
        *(fn.dense(64), fn.batch_norm(axis_name=axis_name), jnp.tanh, fn.dropout(rate)),
        *(fn.dense(64), jnp.tanh, fn.dense(3)),
    )


def block(rate=0.2):
    return fn.sequential(
        fn.embedding(11, 16), fn.encoder_block(4, 32, dropout=rate, causal=True), fn.dense(11)
    )


def rows(dtype):
    return data(64, dtype)


def tokens(dtype):
    drawn = np.random.default_rng(0).integers(0, 11, (64, 9))
    return drawn[:, :-1], drawn[:, 1:]


MODELS = {"mlp": (mlp, rows), "transformer": (block, tokens)}
TENSOR = {
    "mlp": {"0/kernel": (None, "model"), "0/bias": ("model",), "4/kernel": ("model", None)},
    "transformer": {"**/mlp/*/kernel": (None, "model"), "**/query/kernel": (None, "model", None)},
}


def some(n):
    return jax.devices()[:n]


PLACEMENTS = {
    "data, 2": lambda name: fn.data_parallel(some(2)),
    "data, 8": lambda name: fn.data_parallel(),
    "sharded, 4": lambda name: fn.fully_sharded(some(4), min_size=16),
    "sharded, 8": lambda name: fn.fully_sharded(min_size=16),
    "tensor, 4": lambda name: fn.on_mesh(
        {"model": 4}, batch=(), rules=rules(name), devices=some(4)
    ),
    "data and tensor": lambda name: fn.on_mesh({"data": -1, "model": 2}, rules=rules(name)),
    "all three": lambda name: fn.on_mesh(
        {"data": 2, "shard": 2, "model": 2},
        batch=("data", "shard"),
        rules=rules(name),
        shard="shard",
        min_size=16,
    ),
}


def rules(name):
    """The rules of a model, without those that none of its params matches."""
    make, made = MODELS[name]
    params = make().init(jax.random.key(0), made(np.float32)[0][:1])[0]
    found = {}
    for pattern, spec in TENSOR[name].items():
        try:
            fn.tree.select("", params, pattern)
        except ValueError:
            continue
        found[pattern] = spec
    return found


def trainer_of(name, placement, optimizer=None, model=None, **settings):
    return fn.Trainer(
        model or MODELS[name][0](),
        loss=CROSS_ENTROPY,
        optimizer=optimizer or optax.adam(1e-2),
        metrics={"accuracy": fn.metrics.accuracy()},
        placement=placement,
        **settings,
    )


def gradient(name, placement, batch, model=None):
    """The gradient of a batch, as the step of plain descent at rate 1."""
    trainer = trainer_of(name, placement, optax.sgd(1.0), model)
    key = jax.random.key(0)
    state = trainer.programs.init()(key, batch[0][:1])
    after, _ = jax.jit(trainer.step)(state, batch)
    return jax.device_get(jax.tree.map(jnp.subtract, state.params, after.params))


def relative(a, b):
    """The distance of two trees, relative to the size of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)) / optax.tree.norm(b))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", PLACEMENTS)
def test_gradients_are_those_of_one_device(name, place):
    placement = PLACEMENTS[place](name)
    batch = MODELS[name][1](np.float32)
    alone = gradient(name, None, batch)
    assert relative(gradient(name, placement, batch), alone) <= 2e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("place", ["data, 8", "sharded, 4", "all three"])
def test_gradients_are_those_of_one_device_to_twelve_digits(x64, name, place):
    batch = MODELS[name][1](np.float64)
    alone = gradient(name, None, batch)
    assert relative(gradient(name, PLACEMENTS[place](name), batch), alone) <= 1e-12


@pytest.mark.parametrize(
    ("name", "place"),
    [("mlp", "data, 8"), ("mlp", "all three"), ("transformer", "sharded, 4")],
)
def test_fit_is_that_of_one_device(x64, name, place):
    placement = PLACEMENTS[place](name)
    columns = MODELS[name][1](np.float64)
    found, alone = (
        trainer_of(name, where).fit(columns, validation=0.25, epochs=2, batch_size=16, seed=3)
        for where in (placement, None)
    )
    assert relative(jax.device_get(found.last.params), alone.last.params) <= 1e-9
    for line in alone.history:
        np.testing.assert_allclose(found.history[line], alone.history[line], rtol=1e-9)
    divided = [
        leaf
        for leaf in jax.tree.leaves((found.last.params, found.last.opt_state))
        if not leaf.sharding.is_fully_replicated
    ]
    assert bool(divided) == ("data," not in place)


def test_accumulation_is_that_of_one_device(x64):
    columns = rows(np.float64)
    found, alone = (
        trainer_of("mlp", where, accumulate=4).fit(columns, epochs=2, batch_size=32, seed=3)
        for where in (fn.fully_sharded(min_size=16), None)
    )
    assert relative(jax.device_get(found.last.params), alone.last.params) <= 1e-9


def test_what_an_optimizer_keeps_of_a_param_lives_where_it_does():
    trainer = trainer_of("mlp", fn.fully_sharded(min_size=16), fn.ema(optax.adam(1e-2)))
    state = trainer.fit(rows(np.float32), epochs=1, batch_size=16).last
    where = {path: leaf.sharding.spec for path, leaf in fn.tree.paths(state.params).items()}
    assert where["4/kernel"] == PartitionSpec("data", None)
    assert where["6/bias"] == PartitionSpec()
    for path, leaf in fn.tree.paths(state.opt_state).items():
        for end, spec in where.items():
            if path.endswith(f"/{end}"):
                assert leaf.sharding.spec == spec


def test_nothing_large_is_ever_whole_on_one_device():
    model = fn.sequential(fn.dense(4096, bias=False), fn.dense(8, bias=False))
    trainer = fn.Trainer(
        model,
        loss=optax.losses.squared_error,
        optimizer=optax.adam(1e-3),
        placement=fn.fully_sharded(),
    )
    x = np.zeros((1, 4096), np.float32)
    compiled = trainer.programs.init().compile(jax.random.key(0), x)
    analysis = compiled.memory_analysis()
    largest = 4096 * 4096 * 4
    assert analysis.output_size_in_bytes < 3 * largest / 8 * 1.1
    assert analysis.temp_size_in_bytes < largest


def test_on_one_device_the_program_is_the_same_as_without_a_placement():
    texts = []
    for placement in (None, fn.data_parallel(some(1)), fn.fully_sharded(some(1), min_size=1)):
        trainer = trainer_of("mlp", placement)
        x, y = rows(np.float32)
        programs = trainer.programs
        state = programs.init()(jax.random.key(0), x[:1])
        source = fn.data.blocks.Resident((jnp.asarray(x), jnp.asarray(y)))
        found = programs.nothing(state, source, 16, True)
        lowered = programs.advance(16, True).lower(state, found, source, np.int32(1))
        texts.append(lowered.as_text())
    assert texts[0] == texts[1] == texts[2]


def test_evaluation_and_prediction_are_those_of_one_device():
    x, y = rows(np.float32)
    placed, alone = (trainer_of("mlp", where) for where in (fn.fully_sharded(min_size=16), None))
    state = placed.fit((x, y), epochs=1, batch_size=16).best
    there = jax.device_get(state._replace(key=0))._replace(key=jax.random.key(0))
    chex.assert_trees_all_close(
        placed.evaluate(state, (x[:50], y[:50]), batch_size=16),
        alone.evaluate(there, (x[:50], y[:50]), batch_size=16),
        rtol=1e-5,
    )
    chex.assert_trees_all_close(
        placed.predict(state, x[:13]), alone.predict(there, x[:13]), rtol=0, atol=1e-5
    )


def test_what_is_stacked_is_gathered_layer_by_layer_and_batches_stay_divided():
    block_of = fn.remat(fn.encoder_block(4, 256, causal=True))
    trainer = fn.Trainer(
        fn.sequential(
            *(fn.embedding(64, 64), fn.learned_positions(32)),
            *(fn.layer_stack(block_of, 4), fn.layer_norm(), fn.dense(64)),
        ),
        loss=CROSS_ENTROPY,
        optimizer=optax.adam(1e-3),
        placement=fn.fully_sharded(min_size=256),
    )
    x = jax.ShapeDtypeStruct((64, 32), jnp.int32)
    whole = fn.tree.nbytes(jax.eval_shape(trainer.init, jax.random.key(0), x).params)
    sent = sum(each.sent for each in fn.plan(trainer, (x, x)).collectives)
    # gathered for the way there, for computing it anew, and back; gradients are summed (twice)
    assert sent <= 5 * whole


def convolved(x):
    """XLA's own convolution, which is why steps with it are dispatched one by one on a CPU."""
    return jax.lax.conv(x[:, None], jnp.ones((1, 1, 3), x.dtype), (1,), "SAME")[:, 0]


@pytest.mark.parametrize("make", [fn.data_parallel, fn.pmapped])
def test_never_more_than_sixteen_programs_are_in_flight(make):
    trainer = trainer_of("mlp", make(), model=fn.sequential(convolved, fn.dense(3)))
    x, y = (
        np.tile(part, (5, 1))[:320] if part.ndim > 1 else np.tile(part, 5)
        for part in rows(np.float32)
    )
    result = trainer.fit((x, y), epochs=1, batch_size=8)
    assert result.last.step == 40
    assert trainer.programs.flight.peak == 16
    trainer.programs.flight.peak = 0
    batches = [(x[at : at + 8], y[at : at + 8]) for at in range(0, 320, 8)]
    trainer.evaluate(result.last, batches, batch_size=8)
    assert trainer.programs.flight.peak == 16
    assert trainer.predict(result.last, x, batch_size=8).shape == (320, 3)
    assert not trainer.programs.flight.waiting


def test_a_fit_goes_on_from_any_placement(x64):
    columns = rows(np.float64)
    trainers = [
        trainer_of("mlp", where) for where in (None, fn.fully_sharded(some(2), min_size=16), None)
    ]
    whole = trainers[0].fit(columns, epochs=3, batch_size=16).last
    state = None
    for epoch, trainer in enumerate(trainers):
        state = trainer.fit(columns, state=state, epochs=epoch + 1, batch_size=16).last
    assert relative(jax.device_get(state.params), whole.params) <= 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: trainer_of("mlp", fn.data_parallel()).fit(rows(np.float32), batch_size=12),
            "`fit`: batch_size must be a multiple of 8, the parts that the placement divides a "
            "batch into, got 12. Take 16.",
        ),
        (
            lambda: fn.on_mesh({"data": 3}),
            "`on_mesh`: the sizes of the mesh must multiply to the number of devices, 8, got "
            "{'data': 3}. Give one of them as -1 for what is left over.",
        ),
        (
            lambda: fn.on_mesh({"data": -1}, shard="date"),
            "`on_mesh`: 'date' is no axis of the mesh. Did you mean 'data'?",
        ),
        (
            lambda: trainer_of(
                "mlp", fn.on_mesh({"model": 8}, batch=(), rules={"6/kernel": (None, "model")})
            ).fit(rows(np.float32)),
            "`placement`: a rule must divide a param evenly, got (None, model) for 6/kernel: "
            "float32[64, 3] on a mesh of {'model': 8}. Change the rule, or the size of the layer.",
        ),
        (
            lambda: trainer_of(
                "mlp", fn.on_mesh({"model": 8}, batch=(), rules={"head/*": ("model",)})
            ).fit(rows(np.float32)),
            "`placement`: a pattern must match some path of params, got 'head/*'.",
        ),
    ],
    ids=["batch", "mesh", "axis", "uneven rule", "rule of nothing"],
)
def test_what_is_refused(call, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # the words are compared below
        call()
    assert words in str(caught.value)


def test_a_placement_is_told_in_one_line():
    placement = fn.on_mesh(
        {"data": -1, "model": 2}, rules={"**/kernel": (None, "model")}, shard="data"
    )
    assert repr(placement) == (
        "Placement(data=4, model=2; batch over data; **/kernel as (None, model); "
        "from 16,384 elements on over data)"
    )


def test_a_description_says_what_lives_where():
    trainer = trainer_of("mlp", None)
    x = jax.ShapeDtypeStruct((1, 5), jnp.float32)
    state = jax.eval_shape(trainer.init, jax.random.key(0), x)
    placement = fn.on_mesh({"data": 4, "model": 2}, rules=TENSOR["mlp"], shard="data", min_size=512)
    found = fn.describe(placement, state.params)
    table = [line.split() for line in repr(found).splitlines()]
    assert [*table[7][:7]] == [
        "4/kernel",
        "float32[64,",
        "64]",
        "(model,",
        "data)",
        "float32[32,",
        "16]",
    ]
    assert repr(found).splitlines()[-1] == (
        "4.4 kB on each of 8 devices (data 4 x model 2), 19.5 kB in all"
    )
    assert found.bytes == fn.tree.nbytes(state.params)
    whole = fn.describe(placement, state)
    placed = {part.path: part for part in whole.parts}
    assert placed["opt_state/0/mu/4/kernel"].there == (32, 16)
    assert placed["step"].there == ()
    titles = [axes.get_title(loc="left") for axes in fn.plot(whole).axes]
    assert titles[0] == "params/4/kernel\n[64, 64]"
    with pytest.raises(TypeError, match=r"`describe`: placement must be a fn\.Placement, got 8"):
        fn.describe(8, state)


def test_a_run_and_a_study_of_a_placed_trainer_are_those_of_one_device(x64):
    columns = rows(np.float64)
    settings = {"epochs": 2, "batch_size": 16}
    placement = fn.fully_sharded(min_size=16)
    runs, committees, sweeps = [], [], []
    for where in (placement, None):
        trainer = trainer_of("mlp", where)
        runs.append(fn.make_run(trainer, **settings)(jax.random.key(0), columns, None, 0.25))
        committees.append(fn.ensemble(trainer, 2, columns, **settings))
        sweeps.append(
            fn.sweep(
                lambda chosen, where=where: trainer_of("mlp", where, optax.sgd(chosen["rate"])),
                {"rate": [0.1, 0.01]},
                columns,
                halving=fn.halving(eta=2, start=1),
                **settings,
            )
        )
    assert not runs[0].last.params["4"]["kernel"].sharding.is_fully_replicated
    histories = [
        [run.history, committee.runs.history, [trial.history for trial in swept.trials]]
        for run, committee, swept in zip(runs, committees, sweeps, strict=True)
    ]
    chex.assert_trees_all_close(*jax.device_get(histories), rtol=1e-9)


def test_a_mesh_of_jax_s_own_will_do():
    mesh = jax.make_mesh((8,), ("data",))
    trainer = trainer_of("mlp", fn.on_mesh(mesh, shard="data", min_size=16))
    trainer.fit(rows(np.float32), epochs=1, batch_size=16)
    with pytest.raises(TypeError, match="`on_mesh`: mesh must be a dict of sizes by name"):
        fn.on_mesh(mesh, devices=some(2))
    with pytest.raises(TypeError, match="`on_mesh`: mesh must be a dict of sizes by name"):
        fn.on_mesh([("data", 8)])
    with pytest.raises(TypeError, match="`placement`: devices must be a list of them, got 2"):
        fn.data_parallel(2)


def test_what_a_rule_divides_is_not_divided_by_size_over_the_same_axis():
    params = {"kernel": jax.ShapeDtypeStruct((512, 256), "float32")}
    found = fn.on_mesh({"data": 8}, rules={"*": ("data", None)}, shard="data")
    assert found.of_params(params) == {"kernel": PartitionSpec("data", None)}
    alone = fn.on_mesh({"data": 8}, rules={"*": "data"})
    assert alone.of_params(params) == {"kernel": PartitionSpec("data")}
    with pytest.raises(ValueError, match=r"must use an axis of the mesh once, got \(data, data\)"):
        fn.on_mesh({"data": 8}, rules={"*": ("data", "data")})


def test_a_run_refuses_a_batch_that_can_not_be_divided():
    run = fn.make_run(trainer_of("mlp", fn.data_parallel()), epochs=1, batch_size=12)
    with pytest.raises(ValueError, match="`run`: batch_size must be a multiple of 8"):
        run(jax.random.key(0), rows(np.float32))


def test_a_description_of_nothing_is_drawn_and_of_a_number_refused():
    assert fn.plot(fn.describe(fn.data_parallel(), {})).axes == []
    with pytest.raises(TypeError, match="`describe`: state must be a fn"):
        fn.describe(fn.data_parallel(), {"a": 1.0})


QUIET = {
    "mlp": (lambda: mlp(0.0, "devices"), lambda: mlp(0.0)),
    "transformer": (lambda: block(0.0), lambda: block(0.0)),
}
"""Models without noise, for `fn.pmapped` and for one device."""


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_without_noise_mapped_gradients_are_those_of_one_device(name, devices):
    batch = MODELS[name][1](np.float32)
    there, here = QUIET[name]
    alone = gradient(name, None, batch, here())
    assert relative(gradient(name, fn.pmapped(some(devices)), batch, there()), alone) <= 2e-6


def test_a_mapped_fit_without_noise_is_that_of_one_device(x64):
    x, y = rows(np.float64)
    weight = np.random.default_rng(1).integers(0, 3, len(x)).astype(np.float64)
    there, here = QUIET["mlp"]
    found, alone = (
        trainer_of("mlp", where, model=make()).fit(
            (x, y, weight), validation=0.25, epochs=3, batch_size=16, seed=3
        )
        for make, where in ((there, fn.pmapped()), (here, None))
    )
    assert relative(jax.device_get(found.last.params), alone.last.params) <= 1e-9
    for line in alone.history:
        np.testing.assert_allclose(found.history[line], alone.history[line], rtol=1e-9)


def test_metrics_and_micro_batches_are_mapped_as_they_are_on_one_device(x64):
    x = rows(np.float64)[0]
    y = x @ np.arange(5.0) + 1
    found, alone = (
        fn.Trainer(
            fn.sequential(fn.dense(8), jnp.tanh, fn.dense(1), lambda y: y[:, 0]),
            loss=optax.losses.squared_error,
            optimizer=optax.adam(1e-2),
            metrics={"r2": fn.metrics.r2()},
            accumulate=2,
            placement=where,
        ).fit((x, y), validation=(x[:50], y[:50]), epochs=2, batch_size=16)
        for where in (fn.pmapped(), None)
    )
    for line in alone.history:
        np.testing.assert_allclose(found.history[line], alone.history[line], rtol=1e-9)


def test_each_mapped_device_draws_noise_of_its_own():
    def draws(params, model_state, batch, *, key, training):
        drawn = 0.0 if key is None else jax.random.uniform(key)
        loss = jnp.square(params["bias"]).sum()
        count = len(batch[0])
        return (loss * count, count), (model_state, {"mean": drawn, "square": drawn**2})

    spread = []
    for where in (fn.pmapped(), fn.data_parallel()):
        trainer = fn.Trainer(
            fn.dense(1), objective=draws, optimizer=optax.sgd(0.1), placement=where
        )
        history = trainer.fit(rows(np.float32), steps=1, epochs=1, batch_size=64).history
        spread.append(history["square"] - history["mean"] ** 2)
    assert spread[0] > 1e-3
    assert abs(spread[1]) < 1e-6


def test_batch_norm_is_of_each_mapped_device_unless_it_is_told_of_the_others():
    batch = rows(np.float32)
    alone = gradient("mlp", None, batch, mlp(0.0))
    assert relative(gradient("mlp", fn.pmapped(), batch, mlp(0.0)), alone) > 0.1
    with pytest.raises(
        ValueError,
        match="`batch_norm`: axis_name must be that of an axis that is mapped over, got 'devices' "
        "where none is of that name",
    ):
        gradient("mlp", fn.data_parallel(), batch, mlp(0.0, "devices"))
    assert repr(fn.pmapped()) == "Placement(devices=8; batch over devices; each device for itself)"
