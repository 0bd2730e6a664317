"""What `lstm_xp.modules.keras.LSTM` must do on each backend, next to `keras.layers.LSTM`.

As a program it does so on the backend that KERAS_BACKEND names.
"""

import os
import tempfile
from itertools import product

import keras
import numpy as np

import lstm_xp
from lstm_xp.modules.keras import LSTM

# Inputs, units, batch and time, all different.
I, H, B, T = 3, 5, 4, 6  # noqa: E741 -- the field's letter for the input size
RNG = np.random.default_rng(0)
X, H0, C0 = (RNG.standard_normal(shape).astype("float32") for shape in ((B, T, I), (B, H), (B, H)))
# Masked steps inside a sequence, everywhere, at the start and at the end.
HOLES = np.asarray([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=bool)
BACKEND = keras.backend.backend()

OPTIONS = [
    {"return_sequences": True},
    {"return_sequences": True, "return_state": True, "zero_output_for_mask": True},
    {"return_state": True, "go_backwards": True},
    {"return_sequences": True, "go_backwards": True, "use_bias": False},
    {"zero_output_for_mask": True, "activation": "softsign", "recurrent_activation": "hard_sigmoid"},
]


def tensors(tree):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, tree)


def close(got, wanted, atol=2e-6):
    got, wanted = (keras.tree.flatten(side) for side in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def pair(make, shape=X.shape):
    """Return what `make` makes of Keras' layer and of ours, with the same random weights."""
    theirs, ours = make(keras.layers.LSTM), make(LSTM)
    for layer in (theirs, ours):
        if not layer.built:
            layer.build(shape)
    theirs.set_weights([RNG.standard_normal(w.shape) * 0.5 for w in theirs.get_weights()])
    assert [w.path.split("/")[-1] for w in ours.weights] == [w.path.split("/")[-1] for w in theirs.weights]
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def layers_alone():
    for options, mask, state in product(OPTIONS, (None, HOLES), (None, [H0, C0])):
        if BACKEND != "torch" and (mask is None) == (state is None):
            continue  # with both, Keras gives there the initial state before the first step; on PyTorch zeros, as ours
        theirs, ours = pair(lambda kind, options=options: kind(H, **options))
        call = {"mask": mask if mask is None else tensors(mask), "initial_state": state and tensors(state)}
        close(ours(X, **call), theirs(X, **call))
        assert ours.compute_output_shape(X.shape) == theirs.compute_output_shape(X.shape)


def both_directions():
    options = {"return_sequences": True, "return_state": True}
    for mode, mask in (("concat", HOLES), ("sum", None)):
        theirs, ours = pair(lambda kind, mode=mode: keras.layers.Bidirectional(kind(H, **options), merge_mode=mode))
        assert isinstance(ours.backward_layer, LSTM)
        assert ours.backward_layer.use_cudnn is False  # on a GPU `Bidirectional` would call cuDNN in the place of ours
        close(*(layer(X, mask=mask if mask is None else tensors(mask)) for layer in (ours, theirs)))


def masks_of_other_layers():
    """They come from an embedding and go on to the next layer; so do those of `Masking`."""
    words, padded = RNG.integers(0, 3, (B, T)), X * HOLES[:, :, None]

    def model(kind, first, **options):
        return keras.Sequential([first(), kind(H, return_sequences=True, **options), kind(2)])

    for first, x in (
        (lambda: keras.layers.Embedding(3, I, mask_zero=True), words),
        (lambda: keras.layers.Masking(), padded),
    ):
        theirs, ours = pair(lambda kind, first=first, x=x: model(kind, first), x.shape)
        close(ours(x), theirs(x))
        mask = ours.layers[0].compute_mask(tensors(x))
        assert ours.layers[1].compute_mask(x, mask) is mask


def a_functional_model():
    """An encoder whose states a decoder begins with; batch and time are free."""

    def model(kind):
        source, target = keras.Input((None, I)), keras.Input((None, I))
        _, *state = kind(H, return_state=True, name="encoder")(source)
        y = kind(H, return_sequences=True, name="decoder")(target, initial_state=state)
        assert y.shape == (None, None, H)
        return keras.Model([source, target], keras.layers.Dense(2)(y))

    theirs, ours = pair(model)
    close(ours([X, X[:, :2]]), theirs([X, X[:, :2]]))
    close(ours.predict([X, X[:, :2]], verbose=0), theirs.predict([X, X[:, :2]], verbose=0))


def state_from_batch_to_batch():
    theirs, ours = pair(lambda kind: kind(H, stateful=True))
    for _ in range(2):
        close(ours(X), theirs(X))
    ours.reset_state()
    theirs.reset_state()
    close(ours(X), theirs(X))


def dropout():
    """The same numbers are drawn from a seed."""
    theirs, ours = pair(lambda kind: kind(H, dropout=0.5, seed=1))
    wanted = theirs(X, training=True)
    close(ours(X, training=True), wanted)
    assert not np.allclose(*(keras.ops.convert_to_numpy(y) for y in (ours(X), wanted)))
    close(ours(X), theirs(X))


def other_dtypes():
    theirs, ours = pair(lambda kind: kind(H))
    integers = tensors(RNG.integers(0, 3, X.shape))
    close(ours(integers), theirs(integers))
    glorot, orthogonal = keras.initializers.GlorotUniform(1), keras.initializers.Orthogonal(1)
    drawn = {"dtype": "float64", "kernel_initializer": glorot, "recurrent_initializer": orthogonal}
    close(LSTM(H, **drawn)(X), keras.layers.LSTM(H, **drawn)(X))
    if BACKEND != "numpy":
        theirs, ours = pair(lambda kind: kind(H, dtype="mixed_bfloat16"))
        y = ours(X)
        assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
        close(*(keras.ops.cast(each, "float32") for each in (y, theirs(X))), atol=0.05)


def training():
    """Equal weights are equal after it, with regularisers and constraints, and masks, and the loss is lower."""
    if BACKEND == "numpy":
        return  # it has no gradients

    def model(kind):
        layer = kind(H, return_sequences=True, kernel_regularizer="l2", recurrent_constraint="unit_norm")
        made = keras.Sequential(
            [keras.Input((T, I)), keras.layers.Masking(), keras.layers.Bidirectional(layer), kind(1)]
        )
        made.compile(keras.optimizers.SGD(0.1), "mse")
        return made

    theirs, ours = pair(model)
    x, target = X * HOLES[:, :, None], np.linspace(0, 1, B, dtype="float32")[:, None]
    for each in (theirs, ours):
        losses = each.fit(x, target, batch_size=B, epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
    close(ours.get_weights(), theirs.get_weights())


def files():
    """A model comes back from its file; weights go from Keras' layer to ours, and `lstm_xp.load` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        path, weights = os.path.join(folder, "a.keras"), os.path.join(folder, "a.weights.h5")
        options = {"activation": "relu", "bias_initializer": "ones", "unit_forget_bias": False, "go_backwards": True}
        theirs, ours = pair(lambda kind: keras.Sequential([keras.Input((T, I)), kind(H, **options, name="l")]))
        ours.save(path)
        theirs.save_weights(weights)
        back = keras.models.load_model(path)
        assert type(back.layers[0]) is LSTM
        assert back.layers[0].get_config() == ours.layers[0].get_config()
        close(back(X), theirs(X))
        other = keras.Sequential([keras.Input((T, I)), LSTM(H, **options)])
        assert np.all(other.get_weights()[2] == 1)
        other.load_weights(weights)
        close(other(X), theirs(X))
        (_, (state,)) = lstm_xp.load(path)(X)
        close(state.h[0], theirs(X))


def one_of_keras_by_its_configuration():
    theirs = keras.layers.LSTM(H, return_sequences=True, recurrent_activation="hard_sigmoid", name="l")
    ours = LSTM.from_config(theirs.get_config())
    assert ours.get_config() == theirs.get_config()


CHECKS = [
    layers_alone,
    both_directions,
    masks_of_other_layers,
    a_functional_model,
    state_from_batch_to_batch,
    dropout,
    other_dtypes,
    training,
    files,
    one_of_keras_by_its_configuration,
]

if __name__ == "__main__":
    for check in CHECKS:
        check()
    print("done on", BACKEND)
