"""The Triton kernels of spiking neurons; `gpu` launches them.

Currents and spikes are T times N values, with N neurons. Pointers advance by one time-step at a time, so that tensors
of 2^31 and more values work too. Each program runs SIZE neurons and keeps their potentials in registers, in the type
MEMBRANE. `rate` is 1 / tau. Potentials are relative to the reset potential.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

SURROGATES = ("atan", "sigmoid", "triangle", "rectangle")  # of `_slope`


@triton.jit
def _charged(v, x, rate, KIND: tl.constexpr, TAU: tl.constexpr, DECAY: tl.constexpr):
    """Return H[t] of V[t-1] and X[t]."""
    if KIND == "if":
        h = v + x
    elif KIND == "plif":
        h = v + (x - v) * rate if DECAY else v - v * rate + x
    elif DECAY:
        h = v + _quotient(x - v, TAU)
    else:
        h = v - _quotient(v, TAU) + x
    return h


@triton.jit
def _quotient(v, TAU: tl.constexpr):
    """Return v / TAU, rounded as on a CPU."""
    if v.dtype == tl.float64:
        result = v / TAU
    else:
        result = tl.div_rn(v, tl.full(v.shape, TAU, tl.float32))
    return result


@triton.jit
def _left(h, THRESHOLD: tl.constexpr, DROP: tl.constexpr, SOFT: tl.constexpr):
    """Return V[t] of H[t]."""
    if SOFT:
        v = tl.where(h >= THRESHOLD, h - DROP, h)
    else:
        v = tl.where(h >= THRESHOLD, 0.0, h)
    return v


@triton.jit
def _slope(u, SURROGATE: tl.constexpr, ALPHA: tl.constexpr):
    """Return the surrogate's derivative at u = H - v_threshold, as `loop.surrogate_derivative`."""
    if SURROGATE == "atan":
        slope = 1 / (2 / ALPHA + u * u * (4.934802200544679 * ALPHA))  # pi^2 / 2
    elif SURROGATE == "sigmoid":
        s = 1 / (1 + tl.exp(-ALPHA * u))
        slope = ALPHA * s * (1 - s)
    elif SURROGATE == "triangle":
        slope = tl.maximum(ALPHA - ALPHA * ALPHA * tl.abs(u), 0.0)
    else:
        tl.static_assert(SURROGATE == "rectangle", "no such surrogate")
        slope = tl.where(tl.abs(u) < ALPHA / 2, 1 / ALPHA, 0.0)
    return slope.to(u.dtype)


@triton.jit
def _sum(a, b):
    return a + b


@triton.jit
def forward(
    x, learned, spikes, N,
    T: tl.constexpr, STATIC: tl.constexpr, KIND: tl.constexpr, TAU: tl.constexpr, DECAY: tl.constexpr,
    THRESHOLD: tl.constexpr, START: tl.constexpr, DROP: tl.constexpr, SOFT: tl.constexpr,
    MEMBRANE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Charge, fire and reset through all steps."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < N
    x_at, spikes_at = x + at, spikes + at
    rate = tl.full((), 1 / TAU, MEMBRANE)
    if KIND == "plif":
        rate = tl.load(learned).to(MEMBRANE)
    v = tl.full((SIZE,), START, MEMBRANE)
    current = tl.load(x_at, inside, 0.0).to(MEMBRANE)
    for t in tl.static_range(T):
        if t > 0:
            spikes_at += N
            if not STATIC:
                x_at += N
                current = tl.load(x_at, inside, 0.0).to(MEMBRANE)
        h = _charged(v, current, rate, KIND, TAU, DECAY)
        tl.store(spikes_at, tl.where(h >= THRESHOLD, 1.0, 0.0).to(spikes.dtype.element_ty), inside)
        v = _left(h, THRESHOLD, DROP, SOFT)


@triton.jit
def backward(
    x, learned, grad_spikes, grad_x, parts, N,
    T: tl.constexpr, STATIC: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr, ALPHA: tl.constexpr,
    KIND: tl.constexpr, TAU: tl.constexpr, DECAY: tl.constexpr,
    THRESHOLD: tl.constexpr, START: tl.constexpr, DROP: tl.constexpr, SOFT: tl.constexpr,
    MEMBRANE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Charge through all steps, then go back: dL/dH[t] = dL/dS[t] slope(H[t]) + dL/dH[t+1] leak dV[t]/dH[t]."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < N
    x_at, out_at, spikes_at = x + at, grad_x + at, grad_spikes + at
    rate = tl.full((), 1 / TAU, MEMBRANE)
    if KIND == "plif":
        rate = tl.load(learned).to(MEMBRANE)
    v = tl.full((SIZE,), START, MEMBRANE)
    current = tl.load(x_at, inside, 0.0).to(MEMBRANE)
    charged, before, currents = (), (), ()
    for t in tl.static_range(T):
        if t > 0:
            spikes_at += N
            if not STATIC:
                x_at += N
                out_at += N
                current = tl.load(x_at, inside, 0.0).to(MEMBRANE)
        before += (v,)
        currents += (current,)
        h = _charged(v, current, rate, KIND, TAU, DECAY)
        charged += (h,)
        v = _left(h, THRESHOLD, DROP, SOFT)
    grad = tl.full((SIZE,), 0.0, MEMBRANE)
    summed = grad
    learning = grad
    for back in tl.static_range(T):
        h = charged[T - 1 - back]
        slope = _slope(h - THRESHOLD, SURROGATE, ALPHA)
        kept = tl.full((SIZE,), 1.0, MEMBRANE)
        if not SOFT:
            kept = tl.where(h >= THRESHOLD, 0.0, kept)
        if not DETACH:
            kept = kept - (DROP * slope if SOFT else h * slope)
        incoming = tl.load(spikes_at, inside, 0.0).to(MEMBRANE)
        grad = incoming * slope + (grad * kept if KIND == "if" else (1 - rate) * (grad * kept))
        spikes_at -= N
        if KIND == "plif":
            learning += grad * (currents[T - 1 - back] - before[T - 1 - back] if DECAY else -before[T - 1 - back])
        out = grad * rate if DECAY and KIND != "if" else grad
        if STATIC:
            summed += out
        else:
            tl.store(out_at, out.to(grad_x.dtype.element_ty), inside)
            out_at -= N
    if STATIC:
        tl.store(out_at, summed.to(grad_x.dtype.element_ty), inside)
    if KIND == "plif":
        tl.store(parts + tl.program_id(0), tl.reduce(tl.where(inside, learning, 0.0), 0, _sum))
