"""What a type checker must take, and what it must refuse: each line of the latter is marked with its error."""

from typing import Any

from lstm_xp import LSTM, Trace, gather_states, lstm, lstm_vjp, scatter_states
from lstm_xp.model import LSTMState

model = LSTM.init(3, 4, rng=0)
x: Any = ...

y, state = model(x)
y, state = model(x, state, lengths=x, mask=None, reset=None, time_major=False, engine="xp")
y, state, trace = model(x, trace=True)
first: LSTMState = state[0]
path: Trace = trace[0][0]
y, state = lstm(x, model.layers, cell=model.cell)
y, state, trace = lstm(x, model.layers, state, trace=True, engine="auto")
(y, state), vjp = lstm_vjp(x, model.layers)
dx, dlayers, dstate = vjp(y)
y_t, state = model.step(x[:, 0], state)
sizes: tuple[int, int, int] = model.input_size, model.output_size, model.num_layers
state = model.zero_state(2)
state = gather_states(scatter_states(state, [1, 1]))

model(x, length=x)  # error: call-overload
model(x, engine="fast")  # error: call-overload
lstm(x, model.layers, time_mayor=True)  # error: call-overload
lstm_vjp(x, model.layers, traces=True)  # error: call-overload
y, state = model(x, trace=True)  # error: misc
model.zero_state("2")  # error: arg-type
gather_states(x, 2)  # error: call-arg
