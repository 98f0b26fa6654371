"""Weights of PyTorch's: what it computed comes out again, both ways, and nothing slips through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import funcnet as fn
from funcnet.checkpoint import DamagedError, MismatchError, load_torch, load_weights, save_torch
from tests.checkpoint import make_torch_golden, torch_models
from tests.checkpoint.torch_models import BLOCK, CASES, RESNET
from tests.checkpoint.trees import same

CHANNELS_FIRST = "resnet", "digits", "volume", "series"


@pytest.fixture(scope="module")
def golden():
    """Weights, inputs and output of each network."""
    found = {name: {"weights": {}, "inputs": []} for name in CASES}
    for path, array in safetensors.numpy.load_file(make_torch_golden.FILE).items():
        name, kind, *last = path.split("|")
        if kind == "weights":
            found[name]["weights"][last[0]] = array
        elif kind == "inputs":
            found[name]["inputs"].append(ours(name, array))
        else:
            found[name]["output"] = ours(name, array)
    return found


def ours(name, array):
    """What PyTorch has with channels first, as we have it."""
    return np.moveaxis(array, 1, -1) if name in CHANNELS_FIRST and array.ndim > 2 else array


def like_of(case, inputs):
    x = inputs[0] if len(inputs) == 1 else tuple(map(jnp.asarray, inputs))
    return x, jax.eval_shape(lambda: case.model.init(jax.random.key(0), x))


def load(case, golden, **given):
    x, like = like_of(case, golden["inputs"])
    source = given.pop("source", golden["weights"])
    return x, load_torch(source, like, names=case.names, flatten=case.flatten, **given)


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_that_of_pytorch(name, golden):
    case = CASES[name]
    x, (params, model_state) = load(case, golden[name])
    y, after = jax.jit(lambda *a: case.model.apply(*a, training=False))(params, model_state, x)
    want = golden[name]["output"]
    assert y.shape == want.shape
    assert relative_error(y, want) < case.tolerance()
    assert same(after, model_state)


def relative_error(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_is_what_was_loaded(name, golden, tmp_path):
    case, path = CASES[name], tmp_path / "model.safetensors"
    _, trained = load(case, golden[name])
    save_torch(path, trained, names=case.names, flatten=case.flatten)
    saved, want = safetensors.numpy.load_file(path), golden[name]["weights"]
    want = {n: array for n, array in want.items() if not n.endswith("num_batches_tracked")}
    assert saved.keys() == want.keys()
    for each, array in want.items():
        if "bias_" not in each:  # of two that are added their sum alone is kept
            np.testing.assert_array_equal(saved[each], array, strict=True)
    _, again = load(case, golden[name], source=path)
    assert same(again, trained)


def test_the_two_biases_of_a_recurrent_layer_are_saved_as_their_sum(golden, tmp_path):
    _, trained = load(CASES["gru"], golden["gru"])
    save_torch(tmp_path / "gru.safetensors", trained)
    saved = safetensors.numpy.load_file(tmp_path / "gru.safetensors")
    theirs = golden["gru"]["weights"]
    both = theirs["bias_ih_l0"] + theirs["bias_hh_l0"]
    np.testing.assert_array_equal(saved["bias_ih_l0"][:6], both[:6])
    np.testing.assert_array_equal(saved["bias_hh_l0"][:6], np.zeros(6))
    np.testing.assert_array_equal(saved["bias_ih_l0"][6:], theirs["bias_ih_l0"][6:])
    np.testing.assert_array_equal(saved["bias_hh_l0"][6:], theirs["bias_hh_l0"][6:])


# ------------------------------------------------------------------------- what is to be left out

X = np.ones((1, 3), np.float32)
SMALL = fn.sequential(body=fn.dense(2), norm=fn.batch_norm(), head=fn.dense(1))
NAMES = {"net.0": "body", "net.1": "norm", "fc": "head"}


def small_weights():
    ones = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    norm = dict.fromkeys(["weight", "bias", "running_mean", "running_var"], ones(2))
    return {
        "net.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "net.0.bias": ones(2),
        **{f"net.1.{name}": 2 * value for name, value in norm.items()},
        "net.1.num_batches_tracked": np.array(7),
        "fc.weight": ones(1, 2),
        "fc.bias": ones(1),
    }


def small_like(model=SMALL):
    return model.init(jax.random.key(0), X)


def test_a_head_stays_as_it_is():
    like = small_like()
    params, model_state = load_torch(small_weights(), like, names=NAMES, skip="head/**")
    assert same(params["head"], like[0]["head"])
    assert params["body"]["kernel"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert model_state["norm"]["var"].tolist() == [2, 2]
    other = fn.sequential(body=fn.dense(2), norm=fn.batch_norm(), head=fn.dense(9))
    params, _ = load_torch(small_weights(), small_like(other), names=NAMES, skip="head/**")
    assert params["head"]["kernel"].shape == (2, 9)


def test_what_the_file_has_besides_is_named_or_refused():
    more = small_weights() | {"teacher.a": np.ones(2), "teacher.b": np.ones(2)}
    with pytest.raises(MismatchError, match=r"teacher.b: no place for float64\[2\] at 'teacher/b'"):
        load_torch(more, small_like(), names=NAMES)
    for ignore in ("teacher", "teacher.*", ["**.a", "teacher.b"]):
        load_torch(more, small_like(), names=NAMES, ignore=ignore)


def test_names_may_be_a_function():
    by_rules = load_torch(small_weights(), small_like(), names=NAMES)
    parts = {"net.0": "body", "net.1": "norm", "fc": "head"}

    def path(name):
        module, _, last = name.rpartition(".")
        return f"{parts[module]}/{last}"

    assert same(load_torch(small_weights(), small_like(), names=path), by_rules)


def test_names_that_are_the_same_need_no_rules():
    model = fn.sequential(net=fn.sequential(fn.dense(2), fn.batch_norm()), fc=fn.dense(1))
    params, _ = load_torch(small_weights(), small_like(model))
    assert params["net"]["0"]["kernel"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_several_files_hold_one_model(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    found = small_weights()
    halves = [dict(list(found.items())[i::2]) for i in range(2)]
    for path, half in zip(paths, halves, strict=True):
        safetensors.numpy.save_file(half, path)
    want = load_torch(found, small_like(), names=NAMES)
    assert same(load_torch(paths, small_like(), names=NAMES), want)
    with pytest.raises(
        MismatchError, match=r"each tensor must be in one of the files, got 'fc.*0'?"
    ):
        load_torch([paths[0], paths[0]], small_like(), names=NAMES)


def test_floats_of_other_widths_are_taken_when_told():
    half = {name: np.asarray(a, "float16") for name, a in small_weights().items()}
    with pytest.raises(MismatchError) as caught:
        load_torch(half, small_like(), names=NAMES)
    line = "  head/bias: expected float32[1], got float16[1] (fc.bias, float16[1])"
    assert line in str(caught.value).splitlines()
    params, _ = load_torch(half, small_like(), names=NAMES, cast=True)
    assert params["head"]["bias"].dtype == jnp.float32
    whole = {name: np.asarray(a, "int32") for name, a in small_weights().items()}
    with pytest.raises(MismatchError, match=r"expected float32\[1\], got int32\[1\]"):
        load_torch(whole, small_like(), names=NAMES, cast=True)


def test_arrays_live_where_those_of_like_do():
    device = jax.devices()[0]
    like = jax.device_put(small_like(), device)
    params, _ = load_torch(small_weights(), like, names=NAMES)
    assert all(leaf.committed for leaf in jax.tree.leaves(params))
    numpy = jax.tree.map(np.asarray, small_like())
    assert isinstance(
        load_torch(small_weights(), numpy, names=NAMES)[0]["body"]["bias"], np.ndarray
    )


def test_all_that_differs_is_told_at_once():
    found = small_weights()
    found["net.0.weight"] = found["net.0.weight"].T
    found["net.O.bias"] = found.pop("net.0.bias")
    found["head.weight"] = found["fc.weight"]
    del found["net.1.running_var"]
    with pytest.raises(MismatchError) as caught:
        load_torch(found, small_like(), names=NAMES)
    assert str(caught.value) == (
        "`load_torch`: the dict must hold the arrays of like, got\n"
        "  net.O.bias: no place for float32[2] at 'net/O/bias'. Did you mean 'body/bias'?\n"
        "  body/kernel: expected float32[3, 2], got float32[2, 3] (net.0.weight, float32[3, 2])\n"
        "  head/kernel: expected one tensor, got fc.weight and head.weight\n"
        "  body/bias: missing, expected float32[2]\n"
        "  norm/var: missing, expected float32[2]\n"
        "Say in names where a tensor belongs, in ignore which are left out, in skip what stays as "
        "it is in like; cast=True takes floats of other widths."
    )


def test_copies_in_a_stack_are_named(golden):
    case, found = CASES["encoder"], dict(golden["encoder"]["weights"])
    found["layers.2.norm1.bias"] = found.pop("layers.1.norm1.bias")
    with pytest.raises(MismatchError) as caught:
        load(case, golden["encoder"], source=found)
    assert str(caught.value).splitlines()[1:3] == [
        "  blocks/attention_norm/bias[2]: not expected, got float32[8] (layers.2.norm1.bias)",
        "  blocks/attention_norm/bias[1]: missing, expected float32[8]",
    ]


def test_a_pickle_is_refused_with_the_way_out(tmp_path):
    for name, text in (("a.pt", b"\x80\x02}q\x00."), ("b.safetensors", b"PK\x03\x04" + bytes(99))):
        path = tmp_path / name
        path.write_bytes(text)
        with pytest.raises(DamagedError) as caught:
            load_torch(path, small_like())
        assert str(caught.value) == (
            f"`load_torch`: {path} must be a safetensors file, got a pickle, as `torch.save` makes "
            "them: to read one is to run what is in it. Convert it in PyTorch, "
            "`safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'model.safetensors')`."
        )
    with pytest.raises(DamagedError, match=r"`load_weights`: .* got a pickle"):
        load_weights(path)


SHAPES = jax.eval_shape(small_like)
REFUSED = {
    "a rule for nothing": (
        {"names": {"nte.0": "body"}},
        ValueError,
        "`load_torch`: each rule of names must be the first that matches some name, got 'nte.0'. "
        "Did you mean 'net.0'?",
    ),
    "a rule after a wider one": (
        {"names": {"net": "body", "net.0": "body"}},
        ValueError,
        "`load_torch`: each rule of names must be the first that matches some name, got 'net.0'. "
        "One before it matches 'net.0.weight': put it first.",
    ),
    "rules with other wildcards": (
        {"names": {"net.*": "body"}},
        ValueError,
        "`load_torch`: both sides of a rule of names must have the same wildcards in the same "
        "order, got 'net.*' to 'body'. Write a rule for each where they differ.",
    ),
    "a rule turned round": (
        {"names": {"body/kernel": "net.0.weight"}},
        ValueError,
        "`load_torch`: the left side of a rule of names must be PyTorch's, with dots, got "
        "'body/kernel' to 'net.0.weight'. Our path is the right side.",
    ),
    "names that are a list": (
        {"names": ["body"]},
        TypeError,
        "`load_torch`: names must be a dict from PyTorch's names to paths, got ['body']. Say "
        "`{'layer1.*.conv1': 'layer1/*/conv'}`.",
    ),
    "a function that gives no path": (
        {"names": lambda name: None},
        TypeError,
        "`load_torch`: names must give a path for each name, got None for 'net.0.weight'. Leave a "
        "name out with ignore.",
    ),
    "nothing to ignore": (
        {"ignore": "net.2"},
        ValueError,
        "`load_torch`: each pattern of ignore must match a name of PyTorch's, got 'net.2'. "
        "Did you mean 'net.1'?",
    ),
    "nothing to skip": (
        {"skip": "heads/**"},
        ValueError,
        "`load_torch`: a pattern must match some path of params, got 'heads/**'. The paths "
        "are body/bias, body/kernel,",
    ),
    "skipped shapes": (
        {"like": SHAPES, "skip": "head/*"},
        ValueError,
        "`load_torch`: what skip leaves as it is must be an array in like, got a mere shape for "
        "head/bias, head/kernel. Give what `model.init` gives.",
    ),
    "params alone": (
        {"like": SHAPES[0]},
        TypeError,
        "`load_torch`: like must be the pair (params, model_state), as `model.init` gives it, got "
        "dict. For a model without model_state say `(params, {})`.",
    ),
    "params and model_state of the same path": (
        {"like": ({"a": X}, {"a": X})},
        ValueError,
        "`load_torch`: params and model_state must have no path in common, got a. Give one of them "
        "at a time, and {} for the other.",
    ),
    "numbers of Python's": (
        {"like": ({"a": 1.0}, {})},
        TypeError,
        "`load_torch`: each leaf of like must be an array, got numbers of Python's for a. Make "
        "arrays of them with `jnp.asarray`.",
    ),
    "no file": (
        {"source": None},
        TypeError,
        "`load_torch`: path must be that of a file, got None. Say `'model.safetensors'`.",
    ),
    "what is flattened, as a tuple": (
        {"flatten": (3, 3, 64)},
        TypeError,
        "`load_torch`: flatten must be a dict from paths to shapes, got (3, 3, 64). "
        "Say `{'fc1': (7, 7, 64)}`.",
    ),
    "what is flattened before no dense layer": (
        {"flatten": {"norm": (1, 2)}},
        ValueError,
        "`load_torch`: flatten must name dense layers by their paths, got 'norm'. "
        "Known are: 'body', 'head'.",
    ),
    "what is flattened, of another size": (
        {"flatten": {"body": (2, 2)}},
        ValueError,
        "`load_torch`: flatten must give the shape (*spatial, C) of what is flattened before "
        "body/kernel, of 3 elements, got (2, 2). Leave out the batch.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_as_it_must_be_is_refused(name):
    given, error, words = REFUSED[name]
    given = {"source": small_weights(), "like": SHAPES} | given
    with pytest.raises(error) as caught:
        load_torch(given.pop("source"), given.pop("like"), **given)
    assert str(caught.value).startswith(words)


# ------------------------------------------------------------------------------------- and back


def test_names_that_do_not_lead_back_are_refused(tmp_path):
    trained, path = small_like(), tmp_path / "m.safetensors"
    words = (
        "`save_torch`: each tensor must have a name of its own that leads back to it, got {} for "
        "'norm/weight', which {}. Make the rules of names more exact."
    )
    for names, came in (
        ({"norm": "body"}, ("'norm.weight'", "another has")),
        ({"n": "body", "n.x": "norm"}, ("'n.x.weight'", "is read as 'body/x/weight'")),
    ):
        with pytest.raises(ValueError, match="save_torch") as caught:
            save_torch(path, trained, names=names)
        assert str(caught.value) == words.format(*came)
    assert not path.exists()


def test_a_leaf_may_have_a_rule_of_its_own(tmp_path):
    names = NAMES | {"w": "head/kernel", "b": "head/bias"}
    del names["fc"]
    save_torch(tmp_path / "m.safetensors", small_like(), names=names)
    assert {"w", "b"} < safetensors.numpy.load_file(tmp_path / "m.safetensors").keys()
    assert same(load_torch(tmp_path / "m.safetensors", small_like(), names=names), small_like())


def test_shapes_without_arrays_and_a_folder_that_is_not_there_are_refused(tmp_path):
    specs = jax.eval_shape(small_like)
    with pytest.raises(TypeError, match=r"`save_torch`: .* whole arrays.*body/bias: ShapeDtypeS"):
        save_torch(tmp_path / "m.safetensors", specs)
    with pytest.raises(OSError, match=r"none/m.safetensors: .*No such file"):
        save_torch(tmp_path / "none" / "m.safetensors", small_like())


def test_what_is_skipped_is_not_saved(tmp_path):
    save_torch(tmp_path / "m.safetensors", small_like(), skip=["head/**", "norm/mean"])
    saved = safetensors.numpy.load_file(tmp_path / "m.safetensors")
    assert {*saved} == {"body.weight", "body.bias", "norm.weight", "norm.bias", "norm.running_var"}


@pytest.mark.parametrize(
    "model",
    [
        fn.sequential(query=fn.conv(2, (1,)), out=fn.conv(2, (1,))),
        fn.sequential(query=fn.dense(2), key=fn.dense(2), value=fn.dense(2), out=fn.dense(2)),
    ],
    ids=["convolutions", "dense layers"],
)
def test_layers_called_as_those_of_attention_are_none(model, tmp_path):
    like = model.init(jax.random.key(0), np.ones((1, 4, 3), np.float32))
    save_torch(tmp_path / "m.safetensors", like)
    saved = load_weights(tmp_path / "m.safetensors")
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in saved} == {*like[0]}
    assert same(load_torch(tmp_path / "m.safetensors", like), like)


# ------------------------------------------------------------------ beside PyTorch, where it is


@pytest.mark.parametrize("name", ["resnet 18", "encoder layer"])
def test_networks_of_pytorch_give_the_same(name, tmp_path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    torch.manual_seed(0)
    if name == "resnet 18":
        theirs, model, names = make_torch_golden.resnet(torch), torch_models.resnet(), RESNET
        x = torch.randn(2, 3, 64, 64)
    else:
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        theirs, names = make_torch_golden.as_trained(torch, layer), BLOCK
        model = fn.encoder_block(
            4, 64, norm_first=False, activation=jax.nn.relu, epsilon=layer.norm1.eps
        )
        x = torch.randn(2, 7, 32)
    y = theirs(x).detach().numpy()
    weights = {path: value.numpy().copy() for path, value in theirs.state_dict().items()}
    safetensors.numpy.save_file(weights, tmp_path / "theirs.safetensors")
    mine = ours("resnet", x.numpy()) if name == "resnet 18" else x.numpy()
    like = jax.eval_shape(lambda: model.init(jax.random.key(0), mine))
    trained = load_torch(tmp_path / "theirs.safetensors", like, names=names)
    got = jax.jit(lambda *a: model.apply(*a, training=False)[0])(*trained, mine)
    exact = theirs.double()(x.double()).detach().numpy()
    assert relative_error(got, exact) < 4 * relative_error(y, exact)  # as near as PyTorch's own

    save_torch(tmp_path / "ours.safetensors", trained, names=names)
    with torch.no_grad():
        for value in theirs.parameters():
            value.zero_()
    theirs.float().load_state_dict(load_file(tmp_path / "ours.safetensors"))
    np.testing.assert_array_equal(theirs(x).detach().numpy(), y)
